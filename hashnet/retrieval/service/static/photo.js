// The query's photo, and the box drawn on it. All numbers are pixels of the upright original.

const LONGEST = 1024; // side of the preview, in pixels of its canvas
const SMALLEST = 6; // a drag shorter than this on screen is a click, not a box

export class Photo {
  /** `onBox([top, left, bottom, right])` is called when a box has been drawn. */
  constructor(onBox) {
    this.stage = document.getElementById("stage");
    this.canvas = document.getElementById("picture");
    this.overlay = document.getElementById("overlay");
    this.rect = document.getElementById("box");
    this.shade = document.getElementById("shade");
    this.onBox = onBox;
    this.clear();
    this.overlay.addEventListener("pointerdown", (event) => this.#draw(event));
  }

  /** Height and width of the original; null where no photo is shown. */
  size = null;

  clear() {
    this.turn = (this.turn ?? 0) + 1;
    this.size = null;
    this.stage.hidden = true;
    this.box = null;
  }

  /**
   * Show a Blob, or the picture at an address; false where the browser cannot read it.
   * `original` is a promise of [height, width], or of null where what is shown has that size.
   */
  async show(source, original = null) {
    this.clear();
    const turn = this.turn;
    let image;
    let size;
    try {
      if (source instanceof Blob) {
        image = await createImageBitmap(source, { imageOrientation: "from-image" });
        size = [image.height, image.width];
      } else {
        image = new Image();
        image.src = source;
        await image.decode();
        size = [image.naturalHeight, image.naturalWidth];
      }
      size = (await original) ?? size;
    } catch {
      return turn !== this.turn; // one that was replaced meanwhile has not failed
    }
    if (turn !== this.turn) return true;
    const scale = LONGEST / Math.max(...size);
    this.canvas.height = Math.max(1, Math.round(size[0] * scale));
    this.canvas.width = Math.max(1, Math.round(size[1] * scale));
    this.canvas.getContext("2d").drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    image.close?.();
    this.size = size;
    this.overlay.setAttribute("viewBox", `0 0 ${size[1]} ${size[0]}`);
    this.stage.hidden = false;
    this.box = this.#box;
    return true;
  }

  #box = null;

  get box() {
    return this.#box;
  }

  set box(box) {
    this.#box = box;
    this.overlay.classList.toggle("boxed", Boolean(box && this.size));
    if (!box || !this.size) return;
    const [top, left, bottom, right] = box;
    const [height, width] = this.size;
    const inner = `M${left} ${top}V${bottom}H${right}V${top}Z`;
    this.shade.setAttribute("d", `M0 0H${width}V${height}H0Z${inner}`);
    for (const [name, value] of Object.entries({
      x: left,
      y: top,
      width: right - left,
      height: bottom - top,
    })) {
      this.rect.setAttribute(name, value);
    }
  }

  #draw(start) {
    if (!this.size || start.button !== 0) return;
    start.preventDefault();
    const [height, width] = this.size;
    const before = this.#box;
    const frame = this.overlay.getBoundingClientRect();
    const at = (event) => [
      Math.min(1, Math.max(0, (event.clientY - frame.top) / frame.height)) * height,
      Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width)) * width,
    ];
    const [y, x] = at(start);
    const far = (event) =>
      Math.abs(event.clientX - start.clientX) >= SMALLEST &&
      Math.abs(event.clientY - start.clientY) >= SMALLEST;
    const boxed = (event) => {
      const [v, u] = at(event);
      return [
        Math.floor(Math.min(y, v)),
        Math.floor(Math.min(x, u)),
        Math.ceil(Math.max(y, v)),
        Math.ceil(Math.max(x, u)),
      ];
    };
    const turn = this.turn;
    const moved = (event) => {
      if (turn === this.turn && far(event)) this.box = boxed(event);
    };
    const ended = (event) => {
      for (const [name, listener] of listeners) this.overlay.removeEventListener(name, listener);
      if (turn !== this.turn) return;
      const drawn = event.type === "pointerup" && far(event);
      this.box = drawn ? boxed(event) : before;
      if (drawn) this.onBox(this.box);
    };
    const listeners = [
      ["pointermove", moved],
      ["pointerup", ended],
      ["pointercancel", ended],
    ];
    this.overlay.setPointerCapture(start.pointerId);
    for (const [name, listener] of listeners) this.overlay.addEventListener(name, listener);
  }
}
