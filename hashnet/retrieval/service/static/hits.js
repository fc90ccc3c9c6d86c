// The hits: one tile each, of one height, so that the place of each is known without it. Only those
// near the screen are there: thousands would be laid out anew with every step of a scroll.

import { originalSize, thumbnail } from "./api.js";
import { bits } from "./threshold.js";

const BEYOND = 1; // screens above and below this one whose tiles are there too
const SVG = "http://www.w3.org/2000/svg";
const ACTIONS = { right: "Right", wrong: "Wrong", compare: "Compare with the query" };
const KEYS = { r: "right", w: "wrong", c: "compare" };

const address = (id) => `?${new URLSearchParams({ id })}`;

const GRADES = { copy: "as like as a copy", alike: "alike", unlike: "no longer alike" };

/**
 * The scores of a hit in words, each of its own stage; `grade` only where the index tells, and
 * `inliers` where it was compared, `by` the extractor that verified it. Of a search in words the ways that found it.
 */
export function scores({ bits_apart: apart, distance, grade, inliers, verified_by: by, ways }) {
  if (ways) return [`by ${ways.join(", ")}`];
  const said = [`${bits(apart)} apart`, `distance ${distance.toFixed(2)}`];
  if (grade) said.push(GRADES[grade]);
  if (typeof inliers === "number") {
    said.push(`${inliers} ${inliers === 1 ? "inlier" : "inliers"}${by ? ` by ${by}` : ""}`);
  }
  return said;
}

/** Where the part lies that a hit was found by; nothing where that is all of its image. */
export function place({ region }) {
  if (!region) return [];
  const [top, left, bottom, right] = region;
  return [`found by its part at left ${left}, top ${top} (${right - left} × ${bottom - top} pixels)`];
}

export class Hits {
  /** `on.open(id)`, `on.mark(id, "right" | "wrong")`, `on.compare(hit)`. */
  constructor(on) {
    this.list = document.getElementById("hits");
    this.template = document.getElementById("hit");
    this.on = on;
    this.hits = [];
    this.tiles = new Map(); // of those that are there, by their place among the hits
    this.list.addEventListener("click", (event) => this.#click(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("focusin", (event) => this.#enter(this.#placeOf(event.target)));
    // Errors of pictures do not bubble; they can be caught on the way down.
    this.list.addEventListener(
      "error",
      (event) => event.target.closest(".photo")?.classList.add("missing"),
      true,
    );
    // Nor does their loading, which comes when a tile nears the screen.
    this.list.addEventListener("load", (event) => this.#outline(event.target.closest(".hit")), true);
    const soon = () => {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = undefined;
        this.#fill();
      });
    };
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", soon);
    new ResizeObserver(soon).observe(this.list);
  }

  show(hits, marks) {
    this.hits = hits;
    this.current = 0; // the one tile that the Tab key reaches; arrows go on from it
    this.tall = 0; // pixels of the tallest so far
    this.step = undefined; // pixels from row to row
    this.sizes = new Map();
    this.tiles.clear();
    this.list.replaceChildren();
    this.marks(marks);
    this.#fill();
  }

  /** Show which hits are marked: `{right: [ids], wrong: [ids]}`. */
  marks({ right, wrong }) {
    this.marked = { right: new Set(right), wrong: new Set(wrong) };
    for (const tile of this.tiles.values()) this.#colour(tile);
  }

  /** Have the tiles that are near the screen, and no others but the current one. */
  #fill() {
    const style = getComputedStyle(this.list);
    const columns = style.gridTemplateColumns.split(" ").length;
    const width = this.list.clientWidth;
    const gap = Number.parseFloat(style.rowGap);
    const gone = (Math.max(0, this.#above()) / this.step) * this.columns || 0; // hits
    if (columns !== this.columns || width !== this.width) {
      [this.columns, this.width, this.tall, this.step] = [columns, width, 0];
    }
    // What comes may turn out to be taller than what was there before.
    for (let before = -1; before !== this.tall; ) {
      before = this.tall;
      this.#space((this.tall || width / columns) + gap, gone);
      const first = Math.floor((this.#above() - BEYOND * innerHeight) / this.step);
      const last = Math.ceil((this.#above() + (1 + BEYOND) * innerHeight) / this.step);
      this.#have(Math.max(0, first * columns), Math.min(this.hits.length, last * columns));
      this.tall = Math.max(this.tall, ...[...this.tiles.values()].map((tile) => tile.offsetHeight));
    }
  }

  /** Pixels of the list above the screen; fewer than none where it begins on it. */
  #above() {
    return -this.list.getBoundingClientRect().top;
  }

  /** Give each row so many pixels, and keep so many hits above the screen. */
  #space(step, gone) {
    this.list.style.height = `${Math.ceil(this.hits.length / this.columns) * step}px`;
    if (step === this.step) return;
    this.step = step;
    for (const [number, tile] of this.tiles) this.#put(number, tile);
    if (gone) scrollBy(0, (gone / this.columns) * step - this.#above());
  }

  /** Have the tiles of hits `start` to `end`, and the current one. */
  #have(start, end) {
    for (const [number, tile] of this.tiles) {
      if (number === this.current || (number >= start && number < end)) continue;
      tile.remove();
      this.tiles.delete(number);
    }
    if (this.hits.length) this.#tile(this.current);
    for (let number = start; number < end; number++) this.#tile(number);
  }

  /** The tile of a hit; one that is new takes its place in the order of all. */
  #tile(number) {
    const known = this.tiles.get(number);
    if (known) return known;
    const tile = this.#made(this.hits[number], number + 1);
    tile.dataset.place = number;
    this.#put(number, tile);
    const later = [...this.list.children].find((other) => Number(other.dataset.place) > number);
    this.list.insertBefore(tile, later ?? null);
    this.tiles.set(number, tile);
    this.#reachable(tile, number === this.current);
    this.#colour(tile);
    return tile;
  }

  #put(number, tile) {
    // All are in the one row of the grid, which gives them their columns, and moved down from it.
    tile.style.gridArea = `1 / ${(number % this.columns) + 1}`;
    tile.style.top = `${Math.floor(number / this.columns) * this.step}px`;
  }

  #made(hit, rank) {
    const tile = this.template.content.firstElementChild.cloneNode(true);
    const name = hit.label ?? hit.id.split("/").pop();
    tile.dataset.id = hit.id;
    const unlike = (one) => one?.grade === "unlike";
    tile.classList.toggle("unlike", unlike(hit));
    // The line where likeness ends stands before the first that is no longer alike.
    tile.classList.toggle("end", unlike(hit) && !unlike(this.hits[rank - 2]));
    tile.setAttribute("aria-posinset", rank);
    tile.setAttribute("aria-setsize", this.hits.length);
    const link = tile.querySelector("a");
    link.href = address(hit.id);
    link.title = hit.id;
    const says = [...scores(hit), ...place(hit)].join(", ");
    link.setAttribute("aria-label", `Search by hit ${rank}, ${name}: ${says}`);
    tile.querySelector("img").src = thumbnail(hit.id);
    tile.querySelector(".label").textContent = name;
    tile.querySelector(".photo").classList.toggle("whole", Boolean(hit.region));
    const short = hit.region ? ["found by a part"] : [];
    const said = [...scores(hit), ...short].flatMap((text) => {
      const part = document.createElement("span");
      part.textContent = text;
      return [part, " "];
    });
    tile.querySelector(".numbers").replaceChildren(...said);
    for (const button of tile.querySelectorAll("button")) {
      const text = ACTIONS[button.dataset.action];
      button.title = text;
      button.setAttribute("aria-label", `${text}: hit ${rank}, ${name}`);
    }
    return tile;
  }

  #colour(tile) {
    for (const mark of ["right", "wrong"]) {
      const marked = this.marked[mark].has(tile.dataset.id);
      tile.classList.toggle(mark, marked);
      tile.querySelector(`[data-action="${mark}"]`).setAttribute("aria-pressed", marked);
    }
  }

  /** Draw the outline of the part that a hit was found by over its photo. */
  async #outline(tile) {
    const { id, region } = this.hits[this.#placeOf(tile)];
    if (!region) return;
    if (!this.sizes.has(id)) this.sizes.set(id, originalSize(id));
    const size = await this.sizes.get(id);
    if (!size) return;
    const [top, left, bottom, right] = region;
    const part = document.createElementNS(SVG, "svg");
    const box = document.createElementNS(SVG, "path");
    part.setAttribute("class", "part");
    part.setAttribute("viewBox", `0 0 ${size[1]} ${size[0]}`);
    part.setAttribute("aria-hidden", "true"); // the link says where it is
    box.setAttribute("d", `M${left} ${top}V${bottom}H${right}V${top}Z`);
    part.append(box);
    tile.querySelector(".photo").append(part);
  }

  /** The place among the hits of the tile that an element is in. */
  #placeOf(element) {
    return Number(element.closest(".hit").dataset.place);
  }

  #reachable(tile, yes) {
    for (const element of tile.querySelectorAll("a, button")) element.tabIndex = yes ? 0 : -1;
  }

  #enter(number) {
    if (number === this.current) return;
    const left = this.tiles.get(this.current);
    this.current = number;
    if (left) this.#reachable(left, false);
    this.#reachable(this.tiles.get(number), true);
  }

  #click(event) {
    const tile = event.target.closest(".hit");
    const button = event.target.closest("button");
    const link = event.target.closest("a");
    if (!tile) return;
    if (button) {
      this.#act(button.dataset.action, tile);
    } else if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      this.on.open(tile.dataset.id);
    }
  }

  #act(action, tile) {
    if (action === "compare") this.on.compare(this.hits[this.#placeOf(tile)]);
    else this.on.mark(tile.dataset.id, action);
  }

  #key(event) {
    const tile = event.target.closest(".hit");
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = this.#placeOf(tile);
    const last = this.hits.length - 1;
    const places = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      ArrowUp: here - this.columns,
      ArrowDown: here + this.columns,
      Home: 0,
      End: last,
    };
    if (event.key in KEYS) {
      this.#act(KEYS[event.key], tile);
    } else if (event.key in places) {
      const there = places[event.key];
      if (there >= 0 && there <= last) this.#tile(there).querySelector("a").focus();
    } else {
      return;
    }
    event.preventDefault();
  }
}
