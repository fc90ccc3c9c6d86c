// Query and hit side by side in a dialog, with the matched points drawn between the two.

import { matches, originalSize, picture } from "./api.js";
import { place, scores } from "./hits.js";

const GAP = 12; // pixels between the two photos
const HEIGHT = 560; // of the taller drawing, in pixels of the page

export class Compare {
  constructor() {
    this.dialog = document.getElementById("compare");
    this.canvas = document.getElementById("pair");
    this.lines = document.getElementById("lines");
    this.status = document.getElementById("compare-status");
    this.turn = 0;
    document.getElementById("compare-close").addEventListener("click", () => this.dialog.close());
    this.lines.addEventListener("change", () => this.#draw());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
    this.dialog.addEventListener("close", () => {
      this.turn += 1;
      this.asked?.abort();
    });
    new ResizeObserver(() => this.#draw()).observe(this.canvas.parentElement);
  }

  /**
   * `query` is `{id, photo, region, image, size}`: its id where it is of the index, its Blob where
   * it is not, and the part that is searched by, else null; what is drawn, null for words; and
   * height and width of the original. `local` says whether the index has local features.
   */
  async open(query, hit, local) {
    const turn = ++this.turn;
    this.asked = new AbortController();
    this.photos = query.image ? [{ ...query, box: query.region }] : [];
    this.points = null;
    document.getElementById("lines-row").hidden = true;
    document.getElementById("compare-title").textContent = `Query and hit: ${hit.label ?? hit.id}`;
    document.getElementById("compare-numbers").textContent = [hit.id, ...scores(hit), ...place(hit)].join(" · ");
    this.status.textContent = "Loading…";
    this.dialog.showModal();
    this.#draw();
    const original = originalSize(hit.id);
    const image = new Image();
    image.src = picture(hit.id);
    try {
      await image.decode();
    } catch {
      if (turn === this.turn) this.status.textContent = "The picture of this hit cannot be shown.";
      return;
    }
    const size = (await original) ?? [image.naturalHeight, image.naturalWidth];
    if (turn !== this.turn) return;
    this.photos.push({ image, size, box: hit.region });
    this.#draw();
    if (!local) {
      this.status.textContent = "Matched points need an index with local features.";
    } else if (query.image === null) {
      this.status.textContent = "Matched points lie in two photos: search by a hit first.";
    } else {
      await this.#match(turn, query, hit.id);
    }
  }

  async #match(turn, query, hit) {
    this.status.textContent = "Matching…";
    try {
      const answer = await matches(query, hit, this.asked.signal);
      if (turn !== this.turn) return;
      this.points = [answer.query.yx, answer.hit.yx];
      const found = `${answer.inliers} matched ${answer.inliers === 1 ? "point" : "points"}`;
      this.status.textContent = answer.inliers ? `${found} that one geometry explains.` : "No matched points.";
      this.canvas.setAttribute("aria-label", `Query and hit, side by side: ${found}`);
      document.getElementById("lines-row").hidden = answer.inliers === 0;
      this.#draw();
    } catch (error) {
      if (turn === this.turn && error.name !== "AbortError") this.status.textContent = error.message;
    }
  }

  #draw() {
    if (!this.dialog.open || !this.photos?.length) return;
    const width = this.canvas.parentElement.clientWidth;
    const stacked = width < 560;
    const places = stacked ? column(this.photos, width) : row(this.photos, width);
    const last = places.at(-1);
    const height = Math.max(...places.map((place) => place.y + place.height));
    const dots = window.devicePixelRatio || 1;
    this.canvas.width = Math.round((last.x + last.width) * dots);
    this.canvas.height = Math.round(height * dots);
    this.canvas.style.width = `${this.canvas.width / dots}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(dots, dots);
    this.photos.forEach(({ image, size, box }, side) => {
      const { x, y, width: across, height: down } = places[side];
      pen.drawImage(image, x, y, across, down);
      if (box) outline(pen, box, x, y, down / size[0]);
    });
    if (this.points && this.photos.length === 2) this.#join(pen, places);
  }

  #join(pen, places) {
    const ends = this.points.map((yx, side) => {
      const { x, y, height } = places[side];
      const scale = height / this.photos[side].size[0];
      return yx.map(([v, u]) => [x + u * scale, y + v * scale]);
    });
    ends[0].forEach(([x, y], number) => {
      const [u, v] = ends[1][number];
      // Dark under light, so that a line shows on any photo.
      const colour = `hsl(${(number * 137.5) % 360} 90% 62%)`;
      if (this.lines.checked) {
        for (const [style, thick] of [
          ["rgb(0 0 0 / 0.45)", 3.2],
          [colour, 1.4],
        ]) {
          pen.strokeStyle = style;
          pen.lineWidth = thick;
          pen.beginPath();
          pen.moveTo(x, y);
          pen.lineTo(u, v);
          pen.stroke();
        }
      }
      pen.fillStyle = colour;
      for (const [column, row] of [
        [x, y],
        [u, v],
      ]) {
        pen.beginPath();
        pen.arc(column, row, 3.5, 0, 2 * Math.PI);
        pen.fill();
        pen.strokeStyle = "#000";
        pen.lineWidth = 1;
        pen.stroke();
      }
    });
  }
}

/** The outline of a box, dark under light, on a photo that starts at (x, y). */
function outline(pen, [top, left, bottom, right], x, y, scale) {
  for (const [style, thick] of [
    ["rgb(0 0 0 / 0.6)", 4],
    ["#fff", 2],
  ]) {
    pen.strokeStyle = style;
    pen.lineWidth = thick;
    pen.strokeRect(x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale);
  }
}

/** Places of photos side by side, of one height, no wider than `width`. */
function row(photos, width) {
  const shapes = photos.map(({ size }) => size[1] / size[0]);
  const across = shapes.reduce((sum, shape) => sum + shape, 0);
  const height = Math.min(HEIGHT, (width - GAP * (photos.length - 1)) / across);
  let x = 0;
  return shapes.map((shape) => {
    const place = { x, y: 0, width: height * shape, height };
    x += place.width + GAP;
    return place;
  });
}

/** Places of photos one under the other, of one width. */
function column(photos, width) {
  let y = 0;
  return photos.map(({ size }) => {
    const place = { x: 0, y, width, height: (width * size[0]) / size[1] };
    y += place.height + GAP;
    return place;
  });
}
