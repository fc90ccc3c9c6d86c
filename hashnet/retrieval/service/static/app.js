// The page: what is being searched (`state`), and how it is kept, sent and shown.

import * as api from "./api.js";
import { Compare } from "./compare.js";
import { Hits } from "./hits.js";
import { Photo } from "./photo.js";
import { bits, count, images, Threshold } from "./threshold.js";

const $ = (id) => document.getElementById(id);

const HITS = 60; // wanted by default
const TRIES = 5; // a busy service is asked again this often before the reader is
const WORDS_SHOWN = 32; // on the welcome screen; a longer list is for typing into
const LABELS_SHOWN = 300; // in the filter at one time; typing narrows them down

// `query`: null, or {kind: "id" | "text" | "class" | "photo", name}; a photo's name is its key in `photos`.
const NOTHING = {
  query: null,
  region: null,
  threshold: null, // null: the service chooses
  k: HITS,
  label: [],
  after: "",
  before: "",
  under: "",
  untilUnlike: false,
  verify: false,
  sameObject: false,
  written: false,
  right: [],
  wrong: [],
};

const TEXT_FILTERS = ["after", "before", "under"];

let state = NOTHING;
let info = {
  items: 0, bits: 0, num_labels: 0, labels: [], classes: [], local: null, grades: false, exif: false, folders: [],
};
let shown = null; // the query in the panel, as JSON
let answered = null; // the query whose hits are shown, as JSON
let running = null; // the AbortController of the search under way
let waiting = null; // the timer of one that is to be sent again
const photos = new Map(); // Blobs of this visit, so that Back finds them; nothing is stored

const photo = new Photo((box) => search({ region: box }, true));
const threshold = new Threshold((value) => search({ threshold: value }));
const compare = new Compare();
const hits = new Hits({
  open: (id) => begin({ kind: "id", name: id }),
  mark: (id, mark) => {
    if (state.query.kind === "text") return; // marks move a query, and words do not move
    const other = mark === "right" ? "wrong" : "right";
    const marked = state[mark].includes(id);
    keep({
      ...state,
      [mark]: marked ? without(state[mark], id) : [...state[mark], id],
      [other]: without(state[other], id),
    });
    hits.marks(state);
    showFeedback();
  },
  compare: (hit) => {
    const { query, region } = state;
    const own = {
      id: query.kind === "id" ? query.name : null,
      photo: blobOf(query),
      region,
      image: photo.size ? photo.canvas : null,
      size: photo.size,
    };
    compare.open(own, hit, info.local !== null);
  },
});

const without = (list, item) => list.filter((other) => other !== item);
const blobOf = (query) => (query.kind === "photo" ? photos.get(query.name) : null);

// History: the state goes into the entry; ids and classes also into the address, to be shared.

function inAddress({ query, region, threshold, k, label, ...state }) {
  if (!query || query.kind === "photo") return "./";
  const fields = new URLSearchParams([[query.kind, query.name]]);
  if (region) fields.set("region", region.join(","));
  if (threshold !== null) fields.set("threshold", threshold);
  if (k !== HITS) fields.set("k", k);
  for (const name of label) fields.append("label", name);
  for (const name of TEXT_FILTERS) if (state[name]) fields.set(name, state[name]);
  if (state.untilUnlike) fields.set("until_unlike", "true");
  if (state.verify) fields.set("verify", "true");
  if (state.sameObject) fields.set("same_object", "true");
  if (state.written) fields.set("written", "true");
  return `?${fields}`;
}

function fromAddress() {
  const fields = new URLSearchParams(location.search);
  const whole = (name) => {
    const value = Number.parseInt(fields.get(name) ?? "", 10);
    return Number.isSafeInteger(value) && value > 0 ? value : null;
  };
  const kind = ["id", "text", "class"].find((name) => fields.get(name));
  const region = (fields.get("region") ?? "").split(",").map(Number);
  return {
    ...NOTHING,
    query: kind ? { kind, name: fields.get(kind) } : null,
    region: region.length === 4 && region.every(Number.isSafeInteger) ? region : null,
    threshold: whole("threshold"),
    k: whole("k") ?? HITS,
    label: fields.getAll("label"),
    ...Object.fromEntries(TEXT_FILTERS.map((name) => [name, fields.get(name) ?? ""])),
    untilUnlike: fields.get("until_unlike") === "true",
    verify: fields.get("verify") === "true",
    sameObject: fields.get("same_object") === "true",
    written: fields.get("written") === "true",
  };
}

function keep(next, push = false) {
  if (push) {
    // Where the reader was, for the way back.
    history.replaceState({ ...state, scroll: scrollY }, "");
    history.pushState({ ...next, scroll: 0 }, "", inAddress(next));
  } else {
    history.replaceState({ ...next, scroll: scrollY }, "", inAddress(next));
  }
  state = next;
}

/** Search by something else; the filters stay, what belonged to the last query goes. */
function begin(query) {
  const { k, label, after, before, under, untilUnlike, verify, sameObject, written } = state;
  const kept = { k, label, after, before, under, untilUnlike, verify, sameObject, written };
  search({ ...NOTHING, ...kept, query }, true);
}

/** Change the search and send it; `push` makes it a step that Back undoes. */
function search(changes, push = false) {
  const next = { ...state, ...changes };
  // The local pool has no threshold and takes no marks: what was asked for last holds.
  if (changes.sameObject) Object.assign(next, { verify: false, threshold: null, right: [], wrong: [] });
  else if (next.verify || next.threshold !== null || next.right.length || next.wrong.length) {
    next.sameObject = false;
  }
  keep(next, push);
  if (push && changes.query) {
    scrollTo(0, 0);
    // The hit that was activated is about to go; the reader goes on from the new ones.
    $("results-title").focus({ preventScroll: true });
  }
  send();
}

async function send({ scroll = null, tries = 0 } = {}) {
  running?.abort();
  clearTimeout(waiting);
  threshold.forget();
  showState();
  $("alert").hidden = true;
  if (!state.query) return showWelcome();
  const blob = blobOf(state.query);
  if (blob === undefined) return showWelcome(true);
  running = new AbortController();
  const { signal } = running;
  $("welcome").hidden = true;
  busy(true);
  const asked = state;
  try {
    const answer = await api.search(asked, blob, signal);
    if (signal.aborted) return;
    busy(false);
    showAnswer(answer, asked);
    if (scroll !== null) scrollTo(0, scroll);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    busy(false);
    showError(error, tries);
  }
}

// What is shown.

function busy(yes) {
  document.body.classList.toggle("busy", yes);
  $("results").setAttribute("aria-busy", yes);
  if (yes) $("status").textContent = "Searching…";
}

function showWelcome(gone = false) {
  busy(false);
  $("welcome").hidden = false;
  $("gone").hidden = !gone;
  $("results-title").textContent = "Search by photo";
  $("status").textContent = "";
  clearHits();
}

function clearHits() {
  answered = null;
  $("empty").hidden = $("timings").hidden = true;
  threshold.clear();
  hits.show([], state);
  showFeedback();
}

function showState() {
  $("k").value = state.k;
  $("until-unlike").checked = state.untilUnlike;
  $("verify").checked = state.verify;
  $("same-object").checked = state.sameObject;
  $("written").checked = state.written;
  for (const name of TEXT_FILTERS) $(name).value = state[name];
  threshold.automatic.checked = state.threshold === null;
  if (state.threshold !== null) threshold.slider.value = state.threshold;
  showLabels();
  showQuery();
  photo.box = state.region;
  $("whole").hidden = !state.region;
  $("hint").hidden = Boolean(state.region);
  const form = $("region-form");
  ["top", "left", "bottom", "right"].forEach((edge, place) => {
    form.elements[edge].value = state.region ? state.region[place] : "";
  });
}

async function showQuery() {
  const query = state.query;
  if (JSON.stringify(query) === shown) return;
  shown = JSON.stringify(query);
  photo.clear();
  $("query").classList.toggle("none", query === null);
  const inWords = query?.kind === "class" || query?.kind === "text";
  $("words").hidden = !inWords;
  $("hits").classList.toggle("in-words", query?.kind === "text");
  $("query-name").hidden = true;
  $("region").hidden = !query || inWords;
  $("class-name").value = inWords ? query.name : "";
  document.title = query ? "HashNet: hits" : "HashNet: search by photo";
  if (!query) return;
  if (inWords) {
    $("words").textContent = query.name;
    return;
  }
  const source = query.kind === "photo" ? blobOf(query) : api.picture(query.name);
  const name = query.kind === "photo" ? source?.name ?? "" : query.name;
  const original = query.kind === "id" ? api.originalSize(query.name) : null;
  const readable = source ? await photo.show(source, original) : true;
  if (shown !== JSON.stringify(query)) return;
  photo.box = state.region;
  $("query-name").textContent = readable ? name : `${name} (no preview)`;
  $("query-name").hidden = !$("query-name").textContent;
  const [height, width] = photo.size ?? ["", ""];
  const form = $("region-form");
  form.elements.top.max = form.elements.bottom.max = height;
  form.elements.left.max = form.elements.right.max = width;
}

function showAnswer(answer, asked) {
  const found = answer.hits.length;
  answered = JSON.stringify(asked.query);
  const inWords = asked.query.kind === "text";
  if (inWords) threshold.clear();
  else threshold.answer(answer, asked.threshold);
  $("results-title").textContent = found ? `${count(found)} ${found === 1 ? "hit" : "hits"}` : "No hits";
  const parts = [
    inWords
      ? `of ${images(answer.found)} found`
      : answer.threshold === null
      ? `local pool of ${images(answer.pool)}`
      : `pool of ${images(answer.pool)}, fewer than ${bits(answer.threshold)} apart`,
  ];
  const like = answer.hits.filter(({ grade }) => grade !== "unlike").length;
  if (like < found) parts.push(`${like ? count(like) : "none"} of the hits alike`);
  if (asked.label.length) parts.push(`labelled ${asked.label.join(" or ")}`);
  if (asked.under) parts.push(`in ${asked.under}`);
  if (asked.after) parts.push(`taken from ${asked.after}`);
  if (asked.before) parts.push(`taken before ${asked.before}`);
  $("status").textContent = parts.join(", ");
  $("empty").hidden = found > 0;
  if (!found) showEmpty(answer, asked);
  hits.show(answer.hits, state);
  showTimings(answer.milliseconds);
  showFeedback();
}

function showEmpty(answer, asked) {
  const nearest = threshold.nearest();
  let text = "Nothing to search: the index holds no such image.";
  if (asked.query.kind === "text") {
    text = "Nothing is found by these words.";
    if (answer.suggestions.length) text += ` Spelled like them: ${answer.suggestions.join(", ")}.`;
    const missing = Object.entries(answer.missing).map(([way, why]) => `${way} (${why})`);
    if (missing.length) text += ` Not searched by ${missing.join("; ")}.`;
  } else if (answer.threshold === null && nearest !== null) {
    text = "No image has local features like those of the query.";
  } else if (nearest !== null && answer.pool === 0) {
    text = `No image is fewer than ${bits(answer.threshold)} apart; the nearest is ${bits(nearest - 1)} apart.`;
  } else if (asked.untilUnlike && nearest !== null) {
    text = "Nothing that was searched is like the query.";
  } else if (nearest !== null) {
    text = "The pool holds no image but the query itself.";
  } else if (asked.label.length) {
    text = `No image is labelled ${asked.label.join(" or ")}.`;
  }
  $("empty-text").textContent = text;
  $("wider").hidden = asked.threshold === null || asked.query.kind === "text";
}

function showTimings(milliseconds) {
  const entries = Object.entries(milliseconds).filter(([, value]) => value !== null);
  const cells = entries.flatMap(([stage, value]) => {
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = stage;
    detail.textContent = `${value.toFixed(value < 10 ? 1 : 0)} ms`;
    const pair = document.createElement("div");
    pair.append(term, detail);
    return pair;
  });
  $("timings").replaceChildren(...cells);
  $("timings").hidden = cells.length === 0;
}

function showFeedback() {
  const { right, wrong } = state;
  $("feedback").hidden = !state.query || right.length + wrong.length === 0;
  $("marks").textContent = `${right.length} right, ${wrong.length} wrong`;
}

function showError(error, tries) {
  const again = error.retryAfter !== null && error.retryAfter !== undefined && tries < TRIES;
  $("alert-text").textContent = again
    ? `${error.message} Trying again in ${error.retryAfter} s.`
    : error.message;
  $("retry").textContent = again ? "Try now" : "Try again";
  $("retry").hidden = false;
  $("alert").hidden = false;
  $("status").textContent = "";
  if (answered !== JSON.stringify(state.query)) {
    $("results-title").textContent = "No answer";
    clearHits(); // those of another query
  }
  if (again) waiting = setTimeout(() => send({ tries: tries + 1 }), error.retryAfter * 1000);
}

/** Show the labels that hold what was typed; of more than the page was told, ask for them. */
async function findLabels() {
  showLabels();
  const find = $("labels-find").value.trim();
  if (!find || info.labels.length >= info.num_labels) return;
  const found = await api.labels(find, LABELS_SHOWN).catch(() => []);
  const known = new Set(info.labels.map(({ name }) => name));
  info.labels.push(...found.filter(({ name }) => !known.has(name)));
  showLabels();
}

function showLabels() {
  $("labels-chosen").textContent = state.label.length ? state.label.join(", ") : "all";
  const find = $("labels-find").value.trim().toLowerCase();
  const chosen = new Set(state.label);
  const named = info.labels.filter(({ name }) => chosen.has(name) || name.toLowerCase().includes(find));
  const kept = new Map([...$("labels-list").children].map((item) => [item.dataset.name, item]));
  const items = named.slice(0, LABELS_SHOWN).map((label) => {
    const item = kept.get(label.name) ?? labelItem(label);
    item.querySelector("input").checked = chosen.has(label.name);
    return item;
  });
  // Replacing the same items would take the focus from the box just ticked.
  const now = [...$("labels-list").children];
  if (items.length !== now.length || items.some((item, place) => item !== now[place])) {
    $("labels-list").replaceChildren(...items);
  }
}

function labelItem({ name, count: number }) {
  const item = document.createElement("li");
  item.dataset.name = name;
  const label = document.createElement("label");
  label.className = "check";
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => {
    search({ label: box.checked ? [...state.label, name] : without(state.label, name) });
  });
  const text = document.createElement("span");
  text.className = "grow";
  text.textContent = name;
  const much = document.createElement("span");
  much.className = "quiet";
  much.textContent = count(number);
  label.append(box, text, much);
  item.append(label);
  return item;
}

// Photos that come in: chosen, dropped or pasted.

function take(file) {
  if (!file) return;
  const key = `${Date.now()}-${photos.size}`;
  photos.set(key, file);
  begin({ kind: "photo", name: key });
}

function refuse(text) {
  $("alert-text").textContent = text;
  $("retry").hidden = true;
  $("alert").hidden = false;
}

const firstFile = (transfer) => transfer?.files?.[0];
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");

$("file").addEventListener("change", () => {
  take($("file").files[0]);
  $("file").value = ""; // so that the same file may be chosen again
});
addEventListener("paste", (event) => {
  const file = firstFile(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  take(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.toggle("over", Boolean(carriesFile(event)));
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const file = firstFile(event.dataTransfer);
  if (file) take(file);
  else refuse("That was not a file. Save the picture first, then drop its file here.");
});

// Settings.

$("k").addEventListener("change", () => {
  if ($("k").reportValidity()) search({ k: Number($("k").value) });
});
$("until-unlike").addEventListener("change", () => {
  search({ untilUnlike: $("until-unlike").checked });
});
$("verify").addEventListener("change", () => search({ verify: $("verify").checked, sameObject: false }));
$("same-object").addEventListener("change", () => search({ sameObject: $("same-object").checked }));
$("written").addEventListener("change", () => search({ written: $("written").checked }));
for (const name of TEXT_FILTERS) {
  $(name).addEventListener("change", () => search({ [name]: $(name).value.trim() }));
}
$("labels-find").addEventListener("input", findLabels);
$("labels-all").addEventListener("click", () => search({ label: [] }));
$("wider").addEventListener("click", () => search({ threshold: null }));
$("retry").addEventListener("click", () => (info.bits ? send() : start()));
$("again").addEventListener("click", () => {
  scrollTo(0, 0);
  search({}, true);
});
$("unmark").addEventListener("click", () => {
  $("results-title").focus({ preventScroll: true });
  search({ right: [], wrong: [] });
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // a step in the history without a state would be taken for a new visit
  $("results").focus();
});
$("home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  search({ ...NOTHING, k: state.k }, true);
});

$("class-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("class-name").value.trim();
  const isClass = info.classes.includes(name) && !info.labels.some((label) => label.name === name);
  if (name) begin({ kind: isClass ? "class" : "text", name });
});

$("region-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { top, left, bottom, right } = event.target.elements;
  bottom.setCustomValidity(+bottom.value > +top.value ? "" : "Bottom lies below top.");
  right.setCustomValidity(+right.value > +left.value ? "" : "Right lies right of left.");
  if (!event.target.reportValidity()) return;
  search({ region: [top, left, bottom, right].map((edge) => Number(edge.value)) }, true);
});
// A message set above would otherwise outlive its cause, and hold the form back for ever.
$("region-form").addEventListener("input", (event) => {
  for (const edge of event.currentTarget.querySelectorAll("input")) edge.setCustomValidity("");
});
$("whole").addEventListener("click", () => {
  $("file").focus(); // this button is about to go
  search({ region: null }, true);
});

// On a narrow screen the settings would stand between the photo and its hits: they start closed.
const narrow = matchMedia("(max-width: 760px)");
const fold = () => {
  $("settings").open = !narrow.matches;
};
narrow.addEventListener("change", fold);
fold();

// Start.

history.scrollRestoration = "manual";
addEventListener("popstate", (event) => {
  const { scroll = 0, ...kept } = event.state ?? fromAddress();
  state = { ...NOTHING, ...kept };
  send({ scroll });
});
let resting;
addEventListener("scroll", () => {
  clearTimeout(resting);
  resting = setTimeout(() => history.replaceState({ ...state, scroll: scrollY }, ""), 200);
});

/** Offer words to search by: the labels of the index, then the other classes of its network. */
function offer(labels, classes) {
  const names = [...new Set([...labels, ...classes])];
  if (names.length === 0) return;
  const list = names.map((name) => {
    const option = document.createElement("option");
    option.value = name;
    return option;
  });
  $("classes").replaceChildren(...list);
  $("class-name").placeholder = `${names[0]} …`;
  $("class-form").hidden = false;
  const few = [names, labels, classes].find(({ length }) => length > 0 && length <= WORDS_SHOWN);
  if (!few) return;
  const chips = few.map((name) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `?${new URLSearchParams({ class: name })}`;
    link.textContent = name;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      begin({ kind: "class", name });
    });
    item.append(link);
    return item;
  });
  $("try-list").replaceChildren(...chips);
  $("try").hidden = false;
}

async function start() {
  $("alert").hidden = true;
  try {
    info = await api.info();
  } catch (error) {
    showError(error, TRIES);
    return;
  }
  $("about").textContent = `${images(info.items)}, codes of ${bits(info.bits)}`;
  threshold.bits = info.bits;
  offer(info.labels.map(({ name }) => name), info.classes);
  $("labels").hidden = info.labels.length === 0;
  $("until-unlike-row").hidden = !info.grades;
  $("written-row").hidden = !info.ocr;
  $("verify-row").hidden = $("same-object-row").hidden = info.local === null;
  $("dates-row").hidden = !info.exif;
  $("folder-row").hidden = info.folders.length === 0;
  $("folders").replaceChildren(...info.folders.map((name) => new Option(name)));
  const { scroll = 0, ...kept } = history.state ?? fromAddress();
  state = { ...NOTHING, ...kept };
  send({ scroll });
}

start();
