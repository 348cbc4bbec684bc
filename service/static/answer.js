// Drawing an answer. Everything that comes from outside is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const LONG = 28; // letters of a label that is written smaller
const FOREIGN = 5; // percentile below which an image is called unlike the training set

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

function sign(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "sign");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(space, "use"));
  svg.firstChild.setAttribute("href", `#${name}`);
  return svg;
}

// A class that is called by a number reads better with a word before it.
export const labelName = (label) => (/^\d+$/.test(label.name) ? `class ${label.name}` : label.name);
export const labelNames = (labels) => labels.map(labelName).join(", ") || "no finding";

export function atSize(link, res) {
  const url = new URL(link, document.baseURI);
  url.searchParams.set("res", res);
  return url.href;
}

// The picture, or words in its place where there is none or the browser cannot show it.
export function picture(link, alt, instead) {
  if (!link) return make("span", "no-picture", instead);
  const image = make("img");
  image.alt = alt;
  image.draggable = false;
  image.decoding = "async";
  image.addEventListener("error", () => image.replaceWith(make("span", "no-picture", instead)));
  image.src = link;
  return image;
}

// A warning: what is so, and what to think of it.
export function caution(title, advice) {
  const [box, text] = [make("p", "alert"), make("span")];
  text.append(make("strong", "", title), ` ${advice}`);
  box.append(sign("warning"), text);
  return box;
}

export const UNTRAINED = ["Random weights, not trained:", "its neighbours mean little."];

// Titles and advice of what lessens an answer, whatever the image shows.
export function cautions(answer, query, index) {
  const found = index?.untrained ? [["The model has random weights and was not trained:", UNTRAINED[1]]] : [];
  const home = query.case?.dataset ?? answer.dataset;
  if (home !== answer.dataset) {
    found.push([`This image is of another dataset, ${home}.`, `The label is of ${answer.dataset}, and need not mean anything for it.`]);
  }
  if (answer.probe?.changes_since) found.push(["The linear probe is not up to date:", `${unknownTo(answer.probe)}.`]);
  return found;
}

export function unknownTo({ changes_since: count }) {
  return `${count} ${count === 1 ? "case was" : "cases were"} added or erased that it does not know of`;
}

export function drawAnswer(answer, query, warnings, onNeighbour) {
  const own = query.case && query.case.dataset === answer.dataset ? query.case.labels : null;
  drawQuery(answer, query, own);
  const predicted = answer.labels.map(labelName);
  if (!predicted.length) predicted.push("no finding");
  $("label").className = predicted.some((name) => name.length > LONG) ? "long" : "";
  $("label").replaceChildren(...predicted.map((name) => make("span", "", name)));
  const agreeing = answer.neighbours.filter((neighbour) => neighbour.agrees).length;
  const agree = `${agreeing} of the ${answer.neighbours.length} nearest cases agree.`;
  $("share").textContent = answer.probe ? `The linear probe decided, not the cases below. ${agree}` : agree;
  $("scores-title").textContent = answer.probe ? "Score by the linear probe" : "Share of the vote";
  $("neighbours-title").textContent = answer.probe ? "Nearest training cases; they did not decide" : "Nearest training cases";
  const several = answer.task === "multi-label" && answer.labels.length > 0;
  $("agrees-means").textContent = several ? "has every predicted label" : "agrees with the prediction";
  $("differs-means").textContent = several ? "lacks one" : "does not";
  drawOwn(answer, own);
  $("cautions").replaceChildren(...warnings.map((warning) => caution(...warning)));
  drawFamiliarity(answer);
  drawScores(answer);
  drawNeighbours(answer, onNeighbour);
  drawFacts(answer);
}

const sameLabels = (a, b) => String(a.map((x) => x.index).sort()) === String(b.map((x) => x.index).sort());

function drawQuery(answer, query, own) {
  const frame = $("query-frame");
  const stored = query.id && query.case.image;
  const link = query.id ? stored && (own ? atSize(stored, answer.res) : stored) : query.url;
  frame.className = query.id ? "frame stored" : "frame";
  if (own) frame.classList.add(sameLabels(own, answer.labels) ? "agrees" : "differs");
  frame.replaceChildren(
    picture(link, "The image that is classified", query.id ? "no picture" : "This browser cannot show the image; it was classified all the same."),
  );
  $("query-name").textContent = query.id ?? query.name;
  $("query-note").textContent = query.id
    ? `${answer.res} × ${answer.res} px, licence: ${query.case.licence}`
    : `its centre square, classified at ${answer.res} × ${answer.res} px`;
}

function drawOwn(answer, own) {
  $("own").hidden = !own;
  if (!own) return;
  const agrees = sameLabels(own, answer.labels);
  $("own").className = `own ${agrees ? "agrees" : "differs"}`;
  $("own").replaceChildren(
    sign(agrees ? "check" : "cross"),
    make("span", "", `Labelled ${labelNames(own)}: the prediction ${agrees ? "agrees" : "differs"}.`),
  );
}

function drawFamiliarity({ familiarity, probe }) {
  if (!familiarity) {
    $("familiarity").replaceChildren(make("p", "", "There are too few training cases to tell."));
    return;
  }
  const { percentile, mean_similarity: mean } = familiarity;
  const foreign = percentile < FOREIGN;
  const scale = make("div", "scale");
  scale.style.setProperty("--at", percentile);
  scale.append(make("i"));
  const ends = make("div", "ends");
  ends.append(make("span", "", "0 foreign"), make("span", "zone", `below ${FOREIGN} %: unlike the training cases`), make("span", "", "100 usual"));
  for (const drawing of [scale, ends]) {
    drawing.style.setProperty("--foreign", FOREIGN);
    drawing.setAttribute("aria-hidden", "true"); // the words say it
  }
  const words = make("p", "", usual(percentile));
  words.append(" ", make("span", "small", `Mean similarity ${mean.toFixed(3)}.`));
  const parts = [scale, ends, words];
  if (foreign) {
    parts.unshift(
      caution(
        "This image is unlike the training set.",
        probe ? "The probe was not trained for such images; do not rely on its label." : "The label is only that of the least distant cases; do not rely on it.",
      ),
    );
  }
  $("familiarity").replaceChildren(...parts);
}

export function usual(percentile) {
  if (percentile >= 100) return "More usual than all training cases.";
  if (percentile <= 0) return "Less usual than every training case.";
  if (percentile < FOREIGN) return `Less usual than ${Math.floor(100 - percentile)} % of the training cases.`;
  return `More usual than ${Math.floor(percentile)} % of the training cases.`;
}

function drawScores(answer) {
  const predicted = new Set(answer.labels.map((label) => label.index));
  const multilabel = answer.task === "multi-label";
  $("threshold").hidden = !multilabel;
  $("scores").className = multilabel ? "scores halved" : "scores";
  $("scores").replaceChildren(
    ...answer.scores.map((score) => {
      const row = make("li", predicted.has(score.index) ? "predicted" : "");
      const bar = make("span", "bar");
      bar.setAttribute("aria-hidden", "true");
      bar.append(make("i"));
      bar.firstChild.style.width = `${100 * score.score}%`;
      row.append(make("span", "score-name", labelName(score)), bar, make("span", "number", score.score.toFixed(2)));
      return row;
    }),
  );
}

function drawNeighbours(answer, onNeighbour) {
  const [one] = $("neighbour").content.children;
  $("neighbours").replaceChildren(
    ...answer.neighbours.map((neighbour) => {
      const item = one.cloneNode(true);
      const [button] = item.children;
      const [frame, label, facts] = button.children;
      const kind = neighbour.agrees ? "agrees" : "differs";
      const names = labelNames(neighbour.labels);
      frame.classList.add("stored", kind);
      frame.append(
        picture(neighbour.image && atSize(neighbour.image, answer.res), "", "no picture"),
        sign(neighbour.agrees ? "check" : "cross"),
      );
      label.replaceChildren(make("span", "rank", String(neighbour.rank)), ` ${names}`);
      label.title = names;
      facts.textContent = `${neighbour.similarity.toFixed(3)} · ${neighbour.id.split("/").slice(-2).join("/")}`;
      button.setAttribute(
        "aria-label",
        `${neighbour.rank}: ${names}, similarity ${neighbour.similarity.toFixed(3)}, ` +
          `${neighbour.agrees ? "agrees" : "does not agree"}. Classify ${neighbour.id}`,
      );
      button.addEventListener("click", () => onNeighbour(neighbour));
      return item;
    }),
  );
}

function drawFacts(answer) {
  const licences = [...new Set(answer.neighbours.map((neighbour) => neighbour.licence))];
  $("protocol").textContent =
    `${answer.dataset}, ${answer.model} at ${answer.res} px, k = ${answer.k}, ${answer.probe ? "linear probe" : `${answer.vote} vote`}. ` +
    `${licences.length > 1 ? "Licences" : "Licence"} of the images: ${licences.join("; ")}.`;
  const facts = [["Index version", String(answer.index_version)], ["Fingerprint", answer.fingerprint.replace(/^(sha256:)?(.{12}).*/, "$1$2…")]];
  for (const [name, value] of Object.entries(answer.timings)) facts.push([TIMINGS[name] ?? name, `${value.toFixed(1)} ms`]);
  if (answer.probe) facts.push(...probeFacts(answer.probe));
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  $("facts").children[3].title = answer.fingerprint;
}

const probeFacts = (probe) => [
  ["Linear probe", probe.head],
  ["Trained on", `${probe.train_cases.toLocaleString("en")} cases, chosen by ${probe.val_cases.toLocaleString("en")} of val`],
  ["Log loss on val", probe.val_loss?.toFixed(4) ?? "none"],
];

const TIMINGS = { decode: "Reading the image", queue: "Waiting", embed: "Embedding", search: "Searching", total: "In all" };
