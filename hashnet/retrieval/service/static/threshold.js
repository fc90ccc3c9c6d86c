// The threshold slider over the histogram of Hamming distances: the pool of every place of the slider
// follows from one answer's histogram, so it is shown before the search is sent again.

const SVG = "http://www.w3.org/2000/svg";
const PAUSE = 200; // milliseconds of rest before a search is sent

export const count = (number) => number.toLocaleString("en");
export const images = (number) => `${count(number)} ${number === 1 ? "image" : "images"}`;
export const bits = (number) => `${number} ${number === 1 ? "bit" : "bits"}`;

export class Threshold {
  /** `onChange(threshold)` is called after the slider rests; null where it was left to the service. */
  constructor(onChange) {
    this.slider = document.getElementById("threshold");
    this.automatic = document.getElementById("automatic");
    this.chart = document.getElementById("histogram");
    this.text = document.getElementById("pool");
    this.histogram = [];
    let timer;
    this.slider.addEventListener("input", () => {
      this.automatic.checked = false;
      this.#show();
      clearTimeout(timer);
      timer = setTimeout(() => onChange(Number(this.slider.value)), PAUSE);
    });
    this.automatic.addEventListener("change", () => {
      clearTimeout(timer);
      onChange(this.automatic.checked ? null : Number(this.slider.value));
    });
    this.forget = () => clearTimeout(timer);
  }

  set bits(bits) {
    this.slider.max = bits + 1; // strictly fewer than bits + 1: every image
    this.slider.value = Math.ceil(bits / 4);
    this.chart.setAttribute("viewBox", `0 0 ${bits + 1} 100`);
    this.bars = Array.from({ length: bits + 1 }, (_, place) => {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("x", place + 0.08);
      bar.setAttribute("width", 0.84);
      return bar;
    });
    this.chart.replaceChildren(...this.bars);
    this.#show();
  }

  /**
   * Show what an answer says; `chosen` is the reader's threshold, null where there is none. Of an
   * answer without a threshold, which is of the local pool, the slider stays where it is.
   */
  answer({ threshold, histogram }, chosen) {
    this.histogram = histogram ?? [];
    if (threshold !== null) this.slider.value = threshold;
    this.automatic.checked = chosen === null;
    // The root makes room for small counts beside the bulk near half of the bits.
    const most = Math.sqrt(Math.max(1, ...this.histogram));
    this.bars?.forEach((bar, place) => {
      const height = (Math.sqrt(this.histogram[place] ?? 0) / most) * 98;
      bar.setAttribute("y", 100 - height);
      bar.setAttribute("height", height);
    });
    this.#show();
  }

  clear() {
    this.histogram = [];
    for (const bar of this.bars ?? []) bar.setAttribute("height", 0);
    this.chart.setAttribute("aria-label", "No histogram yet");
    this.#show();
  }

  pool(threshold) {
    return this.histogram.slice(0, threshold).reduce((sum, number) => sum + number, 0);
  }

  /** The smallest threshold whose pool is not empty; null where there is none. */
  nearest() {
    const place = this.histogram.findIndex((number) => number > 0);
    return place < 0 ? null : place + 1;
  }

  #show() {
    const threshold = Number(this.slider.value);
    this.bars?.forEach((bar, place) => bar.classList.toggle("in", place < threshold));
    if (this.histogram.length === 0) {
      this.text.textContent = "The histogram of Hamming distances comes with an answer.";
      this.slider.setAttribute("aria-valuetext", `fewer than ${bits(threshold)} apart`);
      return;
    }
    const all = this.pool(this.histogram.length);
    const pool = `pool of ${count(this.pool(threshold))} of ${images(all)}`;
    this.text.textContent = `Fewer than ${bits(threshold)} apart: ${pool}`;
    this.slider.setAttribute("aria-valuetext", `fewer than ${bits(threshold)} apart, ${pool}`);
    this.chart.setAttribute("aria-label", `Histogram of Hamming distances; ${pool}`);
  }
}
