// What the page asks of the service. Addresses are relative, so it may live under any path.

/** What went wrong, in words for the reader; `retryAfter` in seconds where the service names one. */
export class ServiceError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const MEANING = {
  413: "The photo is larger than this service takes.",
  429: "Too many searches at once.",
  503: "The service is busy.",
  504: "The search took too long.",
};

async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const said = typeof answer?.error === "string" ? answer.error : "";
  const means = MEANING[response.status] ?? (said ? "" : `The service answered ${response.status}.`);
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  throw new ServiceError(
    [means, said].filter(Boolean).join(" "),
    response.status,
    response.status === 503 || response.status === 429 ? (Number.isFinite(seconds) ? seconds : 2) : null,
  );
}

// Ids are paths as often as not: each part is escaped, the slashes between them stay.
const escaped = (id) => id.split("/").map(encodeURIComponent).join("/");

export const thumbnail = (id) => `api/images/${escaped(id)}/thumbnail?size=256`;
export const picture = (id) => `api/images/${escaped(id)}/picture`;

/**
 * [height, width] of an image's upright original, which its picture may be a reduction of; null
 * where the service does not say.
 */
export async function originalSize(id) {
  const { height, width } = await ask(`api/images/${escaped(id)}`).catch(() => ({}));
  return height && width ? [height, width] : null;
}

export const info = () => ask("api/info");

/** The first labels that hold some text, with the number of images of each. */
export const labels = async (find, limit) =>
  (await ask(`api/labels?${new URLSearchParams({ find, limit })}`)).labels;

/** One about a photo (a Blob) is posted; any other is an address, which a server's log may show. */
function question(address, fields, photo, signal) {
  if (!photo) return ask(`${address}?${new URLSearchParams(fields)}`, { signal });
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  form.append("image", photo, "photo");
  return ask(address, { method: "POST", body: form, signal });
}

/** Where a query, `{id, photo, region}` of which one is null, and a hit show the same. */
export function matches({ id, photo, region }, hit, signal) {
  const fields = [["hit", hit]];
  if (!photo) fields.push(["query", id]);
  if (region) fields.push(["region", region.join(",")]);
  return question("api/matches", fields, photo, signal);
}

/** Search in words; of all the rest of `state`, hits wanted and filters count. */
function searchWords(state, signal) {
  const fields = [["text", state.query.name], ["k", state.k]];
  for (const name of ["after", "before", "under"]) {
    if (state[name]) fields.push([name, state[name]]);
  }
  for (const name of state.label) fields.push(["label", name]);
  return question("api/search/text", fields, null, signal);
}

/** Search by words, by an id, by a class, or by a photo (a Blob, else null); `state` has all the rest. */
export function search(state, photo, signal) {
  if (state.query.kind === "text") return searchWords(state, signal);
  const fields = [["k", state.k]];
  if (!photo) fields.push([state.query.kind, state.query.name]);
  if (state.threshold !== null) fields.push(["threshold", state.threshold]);
  if (state.region) fields.push(["region", state.region.join(",")]);
  if (state.untilUnlike) fields.push(["until_unlike", "true"]);
  if (state.verify) fields.push(["verify", "true"]);
  if (state.sameObject) fields.push(["same_object", "true"]);
  if (state.written) fields.push(["written", "true"]);
  for (const name of ["after", "before", "under"]) {
    if (state[name]) fields.push([name, state[name]]);
  }
  for (const name of ["label", "right", "wrong"]) {
    for (const value of state[name]) fields.push([name, value]);
  }
  return question("api/search", fields, photo, signal);
}
