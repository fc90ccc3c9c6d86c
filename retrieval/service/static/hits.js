// The hits: one tile each. The first are built at once, the rest while the browser is idle, and
// the style sheet's content-visibility keeps those out of sight from costing layout or paint.

import { thumbnail } from "./api.js";
import { bits } from "./threshold.js";

const AT_ONCE = 100;

export const address = (id) => `?${new URLSearchParams({ id })}`;

/**
 * The scores of a hit in words, each of its own stage; `inliers` only where it was verified, the
 * place only where a part of the image was found.
 */
export function scores({ bits_apart: apart, distance, inliers, region }) {
  const said = [`${bits(apart)} apart`, `distance ${distance.toFixed(2)}`];
  if (typeof inliers === "number") said.push(`${inliers} ${inliers === 1 ? "inlier" : "inliers"}`);
  if (region) said.push(`a part, ${region[3] - region[1]} × ${region[2] - region[0]} pixels at ${region[1]}, ${region[0]}`);
  return said;
}

export class Hits {
  /** `on.open(id)`, `on.mark(id, "right" | "wrong")`, `on.compare(hit, button)`. */
  constructor(on) {
    this.list = document.getElementById("hits");
    this.template = document.getElementById("hit");
    this.on = on;
    this.turn = 0;
    this.tiles = new Map();
    this.list.addEventListener("click", (event) => this.#click(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    // Errors of pictures do not bubble; they can be caught on the way down.
    this.list.addEventListener(
      "error",
      (event) => event.target.closest(".photo")?.classList.add("missing"),
      true,
    );
  }

  show(hits, marks) {
    const turn = ++this.turn;
    this.tiles = new Map();
    this.hits = new Map(hits.map((hit) => [hit.id, hit]));
    this.list.replaceChildren();
    this.marks(marks);
    let done = 0;
    const more = () => {
      if (turn !== this.turn) return;
      const part = document.createDocumentFragment();
      for (const hit of hits.slice(done, done + AT_ONCE)) part.append(this.#tile(hit, ++done));
      this.list.append(part);
      if (done < hits.length) soon(more);
    };
    more();
  }

  /** Show which hits are marked: `{right: [ids], wrong: [ids]}`. */
  marks({ right, wrong }) {
    this.marked = { right: new Set(right), wrong: new Set(wrong) };
    for (const [id, tile] of this.tiles) this.#colour(id, tile);
  }

  #colour(id, tile) {
    for (const mark of ["right", "wrong"]) {
      const marked = this.marked[mark].has(id);
      tile.classList.toggle(mark, marked);
      tile.querySelector(`[data-action="${mark}"]`).setAttribute("aria-pressed", marked);
    }
  }

  #tile(hit, rank) {
    const tile = this.template.content.firstElementChild.cloneNode(true);
    const name = hit.label ?? hit.id.split("/").pop();
    tile.dataset.id = hit.id;
    const link = tile.querySelector("a");
    link.href = address(hit.id);
    link.title = hit.id;
    link.setAttribute("aria-label", `Search by hit ${rank}, ${name}: ${scores(hit).join(", ")}`);
    tile.querySelector("img").src = thumbnail(hit.id);
    tile.querySelector(".label").textContent = name;
    const said = scores(hit).flatMap((score) => {
      const part = document.createElement("span");
      part.textContent = score;
      return [part, " "];
    });
    tile.querySelector(".numbers").replaceChildren(...said);
    const says = { right: "Right", wrong: "Wrong", compare: "Compare with the query" };
    for (const button of tile.querySelectorAll("button")) {
      const text = says[button.dataset.action];
      button.title = text;
      button.setAttribute("aria-label", `${text}: hit ${rank}, ${name}`);
    }
    this.tiles.set(hit.id, tile);
    this.#colour(hit.id, tile);
    return tile;
  }

  #click(event) {
    const tile = event.target.closest(".hit");
    const button = event.target.closest("button");
    const link = event.target.closest("a");
    if (!tile) return;
    if (button) {
      this.#act(button.dataset.action, tile, button);
    } else if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      this.on.open(tile.dataset.id);
    }
  }

  #act(action, tile, from) {
    if (action === "compare") this.on.compare(this.hits.get(tile.dataset.id), from);
    else this.on.mark(tile.dataset.id, action);
  }

  #key(event) {
    const tile = event.target.closest(".hit");
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { r: "right", w: "wrong", c: "compare" }[event.key];
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns(), ArrowDown: this.#columns() };
    if (action) {
      this.#act(action, tile, event.target);
    } else if (event.key in step) {
      const tiles = [...this.list.children];
      tiles[tiles.indexOf(tile) + step[event.key]]?.querySelector("a").focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  #columns() {
    return getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
  }
}

const soon = window.requestIdleCallback
  ? (work) => requestIdleCallback(work, { timeout: 200 })
  : (work) => setTimeout(work, 16);
