// Making elements, and the few words and numbers that several parts show.

/** An element with properties, `on...` listeners, `data`, `style` and children. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "style") for (const [name, size] of Object.entries(value)) element.style.setProperty(name, size);
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const plural = (count, word) => `${count.toLocaleString()} ${word}${count === 1 ? "" : "s"}`;

export const percent = (share) => `${Math.round(100 * share)} %`;

export const fileName = (path) => path.split("/").pop();

/** A day in the reader's own way of writing it; what can't be read stays as it is. */
export function day(date) {
  const time = new Date(date);
  return Number.isNaN(time.getTime()) ? date : time.toLocaleDateString(undefined, { dateStyle: "medium" });
}

/** The tasks that answered, each with a bar for how much it counted; "no task" is the frozen model. */
export function routes(list) {
  const shown = list.filter((route) => route.weight >= 0.01);
  return el(
    "span",
    { className: "routes", title: "Which task's knowledge encoded the query, and how much it counted" },
    ...shown.map((route) =>
      el(
        "span",
        { className: "route", style: { "--share": route.weight } },
        `${route.task || "no task"} ${percent(route.weight)}`,
      ),
    ),
  );
}
