// Which trials the table and the charts show: those that match the words, the state and the ranges that are brushed on the
// parallel coordinates.

const METRIC_AXIS = "metric"; // the brush of the metric; no dimension has this name, for dimensions are fields

/** Return a trial's place on an axis: a number, the index of a choice, or its best value. Undefined without one. */
function placeOn(name, trial) {
  if (name === METRIC_AXIS) return trial.best ?? undefined;
  const domain = results.sweep.space[name], value = trial.sample[name];
  if (domain?.kind !== "choice") return typeof value === "number" ? value : undefined;
  const index = domain.values.indexOf(value);
  return index < 0 ? undefined : index;
}

const isAxis = (name) => name === METRIC_AXIS || name in results.sweep.space;
const brushed = () => Object.entries(view.brushes).filter(([name]) => isAxis(name));

/** Return a function that tells whether a trial is shown. */
function matcher() {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const ranges = brushed();
  const inRange = (trial) => ranges.every(([name, [low, high]]) => { const place = placeOn(name, trial); return place >= low && place <= high; });
  return (trial) => (!view.state || trial.state === view.state) && inRange(trial) && (!words.length || matchesWords(trial, words));
}

function matchesWords(trial, words) {
  const searched = searchText(trial);
  return words.every((word) => searched.includes(word));
}

const isFiltered = () => Boolean(view.state || view.filter.trim() || brushed().length);

/** Return the results with the trials that are shown; `all` has the others too, and defines the colour scale. */
function shownResults() {
  return { ...results, all: results.trials, trials: isFiltered() ? results.trials.filter(matcher()) : results.trials };
}

function setBrush(name, range) {
  const { [name]: _, ...others } = view.brushes;
  choose({ brushes: range ? { ...others, [name]: range } : others });
  showFiltered();
}

/** Show one control per axis, which does with a keyboard or a finger what dragging does with a mouse. */
function updateBrushes() {
  const container = byId("brushes");
  byId("clear-brushes").disabled = !brushed().length;
  const matching = shownResults().trials.length;
  setText(byId("num-brushed"), isFiltered() ? `${formatCount(matching)} of ${formatCount(results.trials.length)} trials match all filters; the others are grey.` : "");
  if (container.contains(document.activeElement)) return; // whose control would be lost
  const { metric, space } = results.sweep;
  const names = shortNames(Object.keys(space));
  const axes = dimensionsOf(results).map(([name, domain]) => (domain.kind === "choice" ? choiceControl(name, names[name], domain.values) : rangeControl(name, names[name])));
  container.replaceChildren(...axes, rangeControl(METRIC_AXIS, metricName(metric)));
}

function rangeControl(name, label) {
  const range = view.brushes[name] ?? [null, null];
  const boxes = ["from", "to"].map((end, k) => {
    const kept = Number.isFinite(range[k]) && Math.abs(range[k]) < 1e300 ? range[k] : "";
    return make("input", { type: "number", step: "any", value: kept, "aria-label": `${label} ${end}`, placeholder: end });
  });
  const read = () => {
    const [low, high] = boxes.map((box) => (box.value === "" ? null : Number(box.value)));
    setBrush(name, low === null && high === null ? null : [low ?? -1e300, high ?? 1e300]);
  };
  for (const box of boxes) box.addEventListener("change", read);
  return make("fieldset", {}, make("legend", {}, label), ...boxes);
}

function choiceControl(name, label, values) {
  const range = view.brushes[name];
  const chosen = range ? values.map((_, k) => k).filter((k) => k >= range[0] && k <= range[1]) : [];
  const several = chosen.length > 1 ? [make("option", { value: "several" }, chosen.map((k) => formatSetting(values[k])).join(", "))] : [];
  const select = make("select", { "aria-label": label }, make("option", { value: "" }, "all"), ...several, ...values.map((value, k) => make("option", { value: k }, formatSetting(value))));
  select.value = several.length ? "several" : chosen[0] ?? "";
  select.addEventListener("change", () => { if (select.value !== "several") setBrush(name, select.value === "" ? null : [Number(select.value), Number(select.value)]); });
  return make("fieldset", {}, make("legend", {}, label), select);
}
