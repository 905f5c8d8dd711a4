// The server's HTTP API. A newer request of a kind gives up the one before it.

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const running = new Map();

async function ask(kind, address, options = {}) {
  stop(kind);
  const control = new AbortController();
  running.set(kind, control);
  let response;
  let answer;
  try {
    response = await fetch(address, { ...options, signal: control.signal });
    answer = await response.json().catch(() => null);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server doesn't answer. Is lpi serve still running?");
  }
  control.signal.throwIfAborted(); // given up while the answer was read
  if (!response.ok) throw new ApiError(answer?.error ?? `The server answered ${response.status}.`, response.status);
  if (answer === null) throw new ApiError("The server's answer can't be read.");
  return answer;
}

/** Give up the requests of some kinds; their callers get an AbortError. */
export function stop(...kinds) {
  for (const kind of kinds) running.get(kind)?.abort();
}

/** Query parameters without the empty ones. */
export function parameters(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return new URLSearchParams(given).toString();
}

/** An address of the API as seen from the page, which may lie under a path of its host. */
export const address = (absolute) => absolute.replace(/^\//, "");

export const info = () => ask("info", "api/info");

export const searchWords = (words, options, kind = "search") =>
  ask(kind, `api/search?${parameters({ q: words, ...options })}`);

export const searchPicture = (file, options, kind = "search") =>
  ask(kind, `api/search?${parameters(options)}`, {
    method: "POST",
    body: file,
    headers: { "Content-Type": file.type || "application/octet-stream" },
  });

export const similar = (id, options, kind = "similar") =>
  ask(kind, `api/pictures/${encodeURIComponent(id)}/similar?${parameters(options)}`);

export const newest = (options) => ask("newest", `api/pictures?${parameters(options)}`);

export const picture = (id, kind = "picture") => ask(kind, `api/pictures/${encodeURIComponent(id)}`);

export const ground = (id, expression, least) =>
  ask("ground", `api/pictures/${encodeURIComponent(id)}/ground?${parameters({ expression, least })}`);

export const thumbnail = (hit, side) => `${address(hit.thumbnail)}?side=${side}`;

const change = (kind, address, method, content) =>
  ask(kind, address, {
    method,
    body: content && JSON.stringify(content),
    headers: content ? { "Content-Type": "application/json" } : {},
  });

/** What changes the index: a domain is begun, sent, learned on trial, adopted or let go; or forgotten. */
export const teaching = {
  state: () => ask("teaching", "api/teaching"),
  begin: (domain, captions) => change("teaching", "api/teaching", "POST", { domain, captions }),
  send: (name, at, piece) => ask("sending", `api/teaching/files?${parameters({ name, at })}`, { method: "PUT", body: piece }),
  learn: (deeper) => change("teaching", "api/teaching/learn", "POST", { deeper }),
  adopt: () => change("teaching", "api/teaching/adopt", "POST"),
  drop: () => change("teaching", "api/teaching", "DELETE"),
  forget: (domain) => change("teaching", `api/domains/${encodeURIComponent(domain)}`, "DELETE"),
};
