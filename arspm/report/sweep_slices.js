// Slice plots: the metric by each dimension, trials by pairs of dimensions, and means by pairs of choices.

/** Show a grid of charts; its elements are recreated only when the set of charts changes. */
function chartGrid(id, entries) {
  const grid = byId(id);
  const keys = entries.map(({ key }) => key).join("\n");
  if (grid.dataset.keys !== keys) {
    grid.replaceChildren(...entries.map(({ title, label }) => make("figure", {}, make("figcaption", {}, title), make("div", { class: "chart-container", "data-label": label }))));
    grid.dataset.keys = keys;
  }
  entries.forEach(({ chart }, k) => showChart(grid.children[k].lastChild, chart, "No trial has a result yet."));
}

function updateValues() {
  const shown = shownResults();
  const numeric = numericOf(results), categorical = categoricalOf(results);
  const { metric } = results.sweep;
  const name = metricName(metric), capitalised = capitalise(name);
  const label = (by) => `${name} of each trial by ${by}`;
  const pairs = numeric.flatMap((first, k) => numeric.slice(k + 1).map((second) => [first, second]));
  chartGrid("slices", numeric.map((each) => ({
    key: each[0], title: `${capitalised} by ${each[0]}`, label: label(each[0]), chart: sliceChart(shown, each),
  })));
  chartGrid("pairs", pairs.slice(0, MAX_PAIRS).map(([first, second]) => ({
    key: `${first[0]}\t${second[0]}`, title: `${shortName(second[0])} against ${shortName(first[0])}, coloured by the ${name}`,
    label: `Trials by ${first[0]} and ${second[0]}`, chart: pairChart(shown, first, second),
  })));
  chartGrid("categories", categorical.map((each) => ({
    key: each[0], title: `${capitalised} by ${each[0]}; diamonds are mean ± standard deviation of the finished trials`,
    label: label(each[0]), chart: categoryChart(shown, each),
  })));
  updatePairTable(shown, categorical);
  setText(byId("values-note"), [
    numeric.length ? "" : "No dimension is numeric, so there are no slice plots.",
    pairs.length > MAX_PAIRS ? `The first ${MAX_PAIRS} of ${pairs.length} pairs are shown.` : "",
  ].filter(Boolean).join(" "));
}

/** Show a table of two categorical dimensions: mean ± standard deviation of the finished trials, coloured from best to worst. */
function updatePairTable(results, categorical) {
  const container = byId("crossed");
  container.hidden = categorical.length !== 2 || dimensionsOf(results).length !== 2;
  if (container.hidden) return;
  const [[across, { values: columnsAcross }], [down, { values: rowsDown }]] = [...categorical].sort((a, b) => a[1].values.length - b[1].values.length);
  const { metric, paper, mode } = results.sweep;
  const finished = results.trials.filter((trial) => trial.state === "finished" && trial.best !== null);
  const valuesAt = (x, y) => finished.filter(({ sample }) => sample[across] === x && sample[down] === y).map((trial) => trial.best);
  const cells = rowsDown.map((y) => columnsAcross.map((x) => meanAndSd(valuesAt(x, y))));
  const means = cells.flat().filter((each) => each.n).map((each) => each.mean);
  const low = Math.min(...means), high = Math.max(...means);
  const tint = (mean) => (high > low ? (mode === "max" ? high - mean : mean - low) / (high - low) : 0);
  const style = getComputedStyle(document.documentElement);
  const ground = (mean) => `background: ${mixed(rgb("--page", style), scaleRgb(tint(mean), style), 0.3)}`;
  const filled = (each, x, y) => make("td", each.n ? { style: ground(each.mean) } : {}, each.n ? formatMeanSd(each, metric) : "–",
    make("span", { class: "about" }, `${each.n} ${each.n === 1 ? "trial" : "trials"}${paper[across] === x && paper[down] === y ? ", paper" : ""}`));
  const seeds = "seed" in results.sweep.space ? ", over seeds" : "";
  const heads = columnsAcross.map((x) => make("th", { scope: "col" }, formatSetting(x)));
  const lines = rowsDown.map((y, k) => make("tr", {}, make("th", { scope: "row" }, formatSetting(y)), ...cells[k].map((each, j) => filled(each, columnsAcross[j], y))));
  container.replaceChildren(make("table", { class: "crossed" },
    make("caption", {}, `${capitalise(metricName(metric))}: mean ± standard deviation of the finished trials with both values${seeds}. Rows: ${down}; columns: ${across}.`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, `${shortName(down)} \\ ${shortName(across)}`), ...heads)),
    make("tbody", {}, ...lines)));
}
