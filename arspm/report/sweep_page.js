// The sweep's page: draws its sections, updates them while the sweep runs, and listens to the user. Starts the page.

const SECONDS_BETWEEN = 15;
const CHART_MILLISECONDS = 150; // after the last key of the filter, before the charts are drawn again

// --- charts

function updateLearning() {
  showChart(byId("chart-learning"), learningChart(shownResults()), "No trial has finished an epoch yet.");
  updateGroups();
}

function updateHistory() {
  const shown = shownResults();
  showChart(byId("chart-history"), historyChart(shown, view.historyBy), "No trial has a result yet.");
  showChart(byId("chart-distribution"), distributionChart(shown), "No trial has a result yet.");
  showChart(byId("chart-timeline"), timelineChart(shown), "No trial has started yet.");
}

function updateParallel() {
  const none = "No trial has a result yet.";
  showChart(byId("chart-parallel"), parallelChart(shownResults()), none);
  updateBrushes();
}

/** Draw the charts that a filter changes. */
function updateFiltered() {
  updateLearning();
  updateHistory();
  updateParallel();
  updateContour();
  updateValues();
}

let waiting = null;

/** Show the table that the filters select at once, and its charts when the user pauses. */
function showFiltered() {
  updateTable();
  updateStateFilter();
  clearTimeout(waiting);
  waiting = setTimeout(updateFiltered, CHART_MILLISECONDS);
}

function updateCharts() {
  const { metric, mode } = results.sweep;
  for (const element of document.querySelectorAll(".metric")) {
    const name = metricName(metric);
    element.textContent = element.classList.contains("capital") ? capitalise(name) : name;
  }
  for (const element of document.querySelectorAll(".better")) element.textContent = mode === "max" ? "higher" : "lower";
  const { bestValue, worstValue } = scaleOf(results);
  for (const element of document.querySelectorAll(".scale")) {
    element.hidden = bestValue === undefined;
    if (bestValue !== undefined) element.replaceChildren(make("span", {}, formatMetric(bestValue, metric)), make("i"), make("span", {}, `${formatMetric(worstValue, metric)} or worse`));
  }
  const { importance } = results;
  setText(byId("importance-summary"), importance
    ? `Share of the variance of the ${metricName(metric)} that each dimension explains (fANOVA, ${formatCount(importance.num_trials)} trials). Interactions are excluded.` : "");
  setText(byId("importance-warning"), importance?.warning ?? "");
  showChart(byId("chart-importance"), importanceChart(results), "Parameter importance is unknown: too few trials have a result.");
  updateFiltered();
  updateOthers();
}

// --- updates

function update(fresh) {
  if (JSON.stringify(fresh.sweep.space) !== JSON.stringify(results.sweep.space)) { // another sweep, whose page may not be written yet
    setTimeout(() => location.reload(), 5000);
    return;
  }
  results = fresh;
  for (const trial of results.trials) if (rows.has(trial.number)) fillRow(rows.get(trial.number), trial);
  updateProgress();
  updateBest();
  updateStateFilter();
  updateTable();
  updateComparison();
  updateCharts();
  updateTrial();
  updatePortraits();
  updateAge();
}

/** Show the view that the URL describes, after the back button. */
function showView() {
  showControls();
  buildTable();
  update(results);
  loadDetails();
}

/** Show the choices of the view in the controls. */
function showControls() {
  byId("filter").value = view.filter;
  for (const name of ["logEpochs", "logMetric"]) byId(name).checked = view[name];
  for (const name of ["smoothing", "top", "historyBy"]) byId(name).value = view[name];
}

/** Fetch the results, and what the page shows of their details. */
async function refresh() {
  try {
    const fresh = await fetchJson("results.json");
    unreadable = false;
    if (fresh.updated !== results.updated) update(fresh);
    await loadDetails();
  } catch { unreadable = true; /* the next request is in 15 s */ }
  updateAge();
}

const near = new Set(); // ids of the sections that are in view, or nearly

const needsCurves = () => near.has("learning") || near.has("groups") || view.selected.length || view.trial !== null || view.columns.length || byId("columns").open;

let loading = Promise.resolve();

/** Fetch what is looked at of the curves, records, logs and other sweeps, if the page lacks it, and show it. */
function loadDetails() {
  loading = loading.then(loadMissing); // one after another, so that nothing is fetched twice
  return loading;
}

async function loadMissing() {
  if (!SERVED) return;
  const before = curves;
  let numFetched = 0;
  try {
    if (needsCurves()) await loadCurves();
    numFetched = await loadRecords(view.trial === null ? view.selected : [...view.selected, view.trial]);
    if (view.trial !== null) await loadLog();
    if (near.has("sweeps") || view.sweeps.length) { await loadOthers(); updateOthers(); }
  } catch { unreadable = true; }
  if (curves !== before) { updateLearning(); updateColumns(); }
  if (curves !== before || numFetched) { updateComparison(); updateTrial(); }
  updateAge();
}

/** Let a control set a choice of the view. */
function bind(id, event, changesOf, show, options) {
  byId(id).addEventListener(event, ({ target }) => { choose(changesOf(target), options); show(); });
}

function listen() {
  bind("filter", "input", ({ value }) => ({ filter: value }), showFiltered, { typing: true });
  bind("state-filter", "change", ({ value }) => ({ state: value }), showFiltered);
  for (const name of ["logEpochs", "logMetric"]) bind(name, "change", ({ checked }) => ({ [name]: checked }), () => { updateLearning(); updateComparison(); });
  for (const name of ["smoothing", "top"]) bind(name, "change", ({ value }) => ({ [name]: Number(value) }), () => { updateLearning(); updateComparison(); });
  bind("historyBy", "change", ({ value }) => ({ historyBy: value }), updateHistory);
  bind("group-by", "change", ({ value }) => ({ group: value }), updateGroups);
  bind("contour-x", "change", ({ value }) => ({ contourX: value }), updateContour);
  bind("contour-y", "change", ({ value }) => ({ contourY: value }), updateContour);
  byId("sort-by").addEventListener("change", (event) => sortBy(event.target.value, false));
  byId("reverse").addEventListener("click", () => sortBy(view.sort, !view.descending));
  byId("show-more").addEventListener("click", () => { view.numRows += NUM_ROWS; updateTable(); });
  byId("columns").addEventListener("toggle", () => { updateColumns(); loadDetails(); });
  byId("clear-selection").addEventListener("click", () => { choose({ selected: [] }); updateComparison(); });
  byId("clear-brushes").addEventListener("click", () => { choose({ brushes: {} }); byId("clear-brushes").blur(); showFiltered(); });
  byId("close-trial").addEventListener("click", () => { choose({ trial: null, at: "trials" }); updateTrial(); });
  byId("open-results").addEventListener("change", (event) => [...event.target.files].forEach(openResults));
  byId("download-trials").addEventListener("click", downloadTrials);
  byId("download-best").addEventListener("click", () => downloadJson("best.json", results.config_of_best));
  byId("download-config").addEventListener("click", () => downloadJson(`trial-${view.trial}.json`, configurationOf(trialOf(view.trial))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { updateCharts(); updateComparison(); });
  addEventListener("beforeprint", drawAll);
  const observeNear = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) isIntersecting ? near.add(target.id) : near.delete(target.id);
    loadDetails();
  }, { rootMargin: "600px" });
  for (const id of ["learning", "groups", "sweeps"]) observeNear.observe(byId(id));
  setInterval(() => (SERVED && !document.hidden ? refresh() : updateAge()), 1000 * SECONDS_BETWEEN);
  document.addEventListener("visibilitychange", () => { if (SERVED && !document.hidden) refresh(); }); // immediately when the tab becomes visible again
}

buildTable();
listen();
showControls();
update(results);
followUrl(showView);
if (SERVED) refresh(); // the page is written less often than the results
