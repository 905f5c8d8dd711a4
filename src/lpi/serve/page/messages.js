// What stands where pictures would be, when there are none: an invitation, an explanation, an error.

import { byId, el, plural } from "./dom.js";

const EXAMPLES = ["a cat", "a red car at night", "boats on the water"]; // until the server knows better ones
const KEYS = [["/", "search"], ["←↑↓→", "move"], ["Enter", "open"], ["s", "similar"], ["Esc", "close"]];

const message = (title, text, ...more) => el("div", { className: "message" }, el("h2", {}, title), el("p", {}, text), ...more);

/** What there is, and how to begin; `ask(words)` searches. The newest pictures come below it. */
export function welcome(about, ask) {
  if (!about.pictures)
    return message("No pictures yet", `The index of ${about.name} is empty. Put pictures into the folder, then: lpi index FOLDER`);
  const domains = about.tasks.map((task) => task.name);
  const knows = domains.length ? ` It has learned ${domains.length > 4 ? plural(domains.length, "domain") : domains.join(", ")}.` : "";
  const offered = about.examples.length ? about.examples : EXAMPLES;
  const examples = offered.map((words) => el("button", { type: "button", className: "example", onclick: () => ask(words) }, words));
  return el(
    "div",
    { className: "message opening" },
    el("h2", {}, `${plural(about.pictures, "picture")} in ${about.name}`),
    el("p", {}, `Say what is in the picture, in your own words.${knows}`),
    el("p", { className: "examples" }, "Try ", ...examples),
    el(
      "p",
      { className: "keys" },
      el("button", { type: "button", className: "here", onclick: () => byId("file").click() }, el("span", {}, "drop, paste or "), "pick a picture"),
      ...KEYS.map(([key, what]) => el("span", {}, el("kbd", {}, key), ` ${what}`)),
    ),
  );
}

/** Nothing fits well; `all` shows the nearest all the same. */
export function poor(asked, all) {
  return el(
    "p",
    { className: "poor", role: "note" },
    el("strong", {}, "Nothing here fits well."),
    ` These pictures are only the nearest to ${asked}. `,
    all ? el("button", { type: "button", onclick: all }, "Show more all the same") : null,
  );
}

/** No hits. `clear` is given where filters may be why. */
export function nothing(clear) {
  if (!clear) return message("Nothing found", "There were no pictures at this stage.");
  return message(
    "Nothing found",
    "No picture passes these filters.",
    el("button", { type: "button", onclick: clear }, "Clear filters"),
  );
}

/** What went wrong, said at once to those who listen; `again` tries anew. */
export function trouble(title, text, again) {
  const shown = message(title, text, again ? el("button", { type: "button", onclick: again }, "Try again") : null);
  shown.setAttribute("role", "alert");
  return shown;
}
