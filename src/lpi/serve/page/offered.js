// A picture that a person offers: dropped anywhere, pasted, or picked.

import { byId } from "./dom.js";

/** Call `take(file)` with each picture, or whatever else was offered as one; `teach(entries)` with what is to be learned. */
export function listen(take, teach) {
  const field = byId("file");
  field.addEventListener("change", () => {
    if (field.files[0]) take(field.files[0]);
    field.value = ""; // the same one may be picked again
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!pasted) return;
    event.preventDefault();
    take(pasted);
  });
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true; // it left the window, not only an element
  });
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!teach(entries) && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Why a file can't be searched with, as a title and a sentence; null where it can. */
export function refusal(file, most) {
  if (!file.type.startsWith("image/")) return ["That is no picture", `${file.name} is not a picture. Drop another one.`];
  if (file.size > most) return ["That picture is too large", `At most ${Math.round(most / 2 ** 20)} MiB can be sent.`];
  return null;
}
