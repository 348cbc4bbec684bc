// What an image is compared with: the controls and what is served.

const $ = (id) => document.getElementById(id);
const { indexes } = JSON.parse(document.querySelector("main").dataset.indexes);

const unique = (values) => [...new Set(values.map(String))];

function fill(select, values, chosen, name = String) {
  select.replaceChildren(...values.map((value) => new Option(name(value), value)));
  select.value = values.includes(chosen) ? chosen : (values[0] ?? "");
}

// Offer what is served, keeping of ``wanted`` (texts) what can be kept.
export function fillSettings(wanted) {
  fill($("dataset"), unique(indexes.map((index) => index.dataset)), wanted.dataset);
  const ofDataset = indexes.filter((index) => index.dataset === $("dataset").value);
  fill($("model"), unique(ofDataset.map((index) => index.model)), wanted.model);
  const ofModel = ofDataset.filter((index) => index.model === $("model").value);
  fill($("res"), unique(ofModel.map((index) => index.res)), wanted.res, (res) => `${res} × ${res} px`);
  const index = ofModel.find((one) => String(one.res) === $("res").value);
  if (!index) return;
  for (const id of ["k", "k-range"]) $(id).max = Math.min(100, index.cases);
  describe(index);
}

function describe(index) {
  const [record] = index.accuracy;
  const accuracy = record
    ? `accuracy on record ${(100 * record.value).toFixed(2)} % (k = ${record.k}, ${record.vote})`
    : "no accuracy on record";
  $("about-index").textContent =
    `${index.cases.toLocaleString("en")} training cases, ${index.classes.length} ` +
    `${index.task === "multi-label" ? "labels" : "classes"}; ${accuracy}.`;
}

export const place = () => ({ dataset: $("dataset").value, model: $("model").value, res: $("res").value });

export const settings = () => ({
  ...place(),
  res: Number($("res").value),
  k: Number($("k").value),
  vote: $("vote").value,
});

// How many examples there are to draw from.
export const testCases = (dataset) => indexes.find((index) => index.dataset === dataset)?.test_cases ?? 0;

export function setK(k) {
  $("k").value = $("k-range").value = k;
}

// What is wrong with the number of neighbours, in words; empty where nothing is.
export function wrongK() {
  const valid = $("k").checkValidity();
  $("k").setAttribute("aria-invalid", String(!valid));
  return valid ? "" : `Neighbours go from 1 to ${$("k").max}, in whole numbers.`;
}
