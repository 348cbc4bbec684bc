// Messages of what is wrong, each where it was done.
import { make } from "./answer.js";

const $ = (id) => document.getElementById(id);

// Puts a failure, or nothing, into ``where``; ``again`` is called by its button. Returns the box.
export function alertIn(where, failure, name = "", again = null) {
  where.replaceChildren();
  if (!failure) return null;
  const box = make("div", "alert");
  box.tabIndex = -1;
  if (name) box.append(make("span", "name", name));
  if (failure.title) box.append(make("strong", "", `${failure.title}.`), " ");
  box.append(failure.message);
  if (failure.again && again) {
    const button = make("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", again);
    box.append(" ", button);
  }
  where.append(box);
  box.scrollIntoView({ block: "nearest" });
  return box;
}

export function clearAlerts() {
  for (const id of ["upload-alert", "answer-alert"]) $(id).replaceChildren();
}

// What is said in the place of a result; without ``text``, what the page does.
export function tellStart(title, text = "") {
  $("start-title").textContent = title;
  $("start-text").textContent = text;
  $("start-text").hidden = !text;
  $("start-about").hidden = Boolean(text);
}
