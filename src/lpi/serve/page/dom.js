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

/** Put words onto the clipboard; also where the browser allows that only to an old call. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = el("textarea", { value: text, className: "hidden" });
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

/** A button that copies, and says so for a moment. */
export function copying(label, text) {
  const button = el("button", {
    type: "button",
    onclick: async () => {
      await copy(text());
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = label), 1500);
    },
  }, label);
  return button;
}

/** The domains that answered, each with a bar for how much it counted; an empty name is the frozen model. */
export function routes(list) {
  const shown = list.filter((route) => route.weight >= 0.01);
  return el(
    "span",
    { className: "routes", title: "Whose knowledge read the words, and how much it counted; general knowledge is what the model knew before it was taught" },
    ...shown.map((route) =>
      el(
        "span",
        { className: "route", style: { "--share": route.weight } },
        `${route.task || "general knowledge"} ${percent(route.weight)}`,
      ),
    ),
  );
}
