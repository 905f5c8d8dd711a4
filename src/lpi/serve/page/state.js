// What is searched for, kept in the address: going back, reloading and sharing work. A dropped picture isn't in it.

export const FILTERS = ["folder", "task", "since", "until"];
const KEYS = ["q", ...FILTERS, "stage", "compare", "like", "all"];

/** The state that the address holds; what isn't there is empty. */
export function read() {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(KEYS.map((key) => [key, given.get(key) ?? ""]));
}

/** Put a state into the address; `fresh` makes a step to go back to. */
export function write(state, fresh) {
  const given = new URLSearchParams(KEYS.filter((key) => state[key]).map((key) => [key, state[key]]));
  const address = given.size ? `?${given}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  history[fresh ? "pushState" : "replaceState"](null, "", address);
}

/** What goes to the server beside the query itself. */
export function options(state, stage = state.stage) {
  return { ...Object.fromEntries(FILTERS.map((key) => [key, state[key]])), stage };
}
