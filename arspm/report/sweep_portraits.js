// Portraits by trial.

/** Return an image; one that is not in the page is loaded when it is scrolled near. */
function picture(reference, alt) {
  if (reference in embedded) return make("img", { src: embedded[reference], alt });
  return make("img", { loading: "lazy", src: reference, alt }); // `loading` comes first: `src` starts loading
}

function realStrip() {
  const alt = `Real faces of ${results.sweep.clips.join(", ")}`;
  return make("figure", { class: "real" }, make("figcaption", {}, make("b", {}, "Real faces")), picture(results.pictures.real, alt));
}

function strip(trial) {
  const values = Object.entries(trial.sample).map(([name, value]) => `${shortName(name)} ${formatSetting(value)}`).join(", ");
  const caption = make("figcaption", {}, make("b", {}, `Trial ${trial.number}`), ` ${formatMetric(trial.best, results.sweep.metric)}`, make("span", { class: "about" }, values));
  return make("figure", {}, caption, picture(results.pictures.trials[trial.number], `Portraits by trial ${trial.number}`));
}

function updatePortraits() {
  const { real, trials } = results.pictures;
  const { clips } = results.sweep;
  const pictured = ranked(results).filter((trial) => trials[trial.number]);
  const speakers = clips.length === 1 ? "validation speaker" : `${clips.length} validation speakers`;
  const shownOf = pictured.length < ranked(results).length ? `, ${pictured.length} of ${formatCount(ranked(results).length)}` : "";
  setText(byId("portraits-summary"), pictured.length
    ? `The same ${speakers} for every trial, at its best epoch; best trial first${shownOf}.`
    : "No portraits yet.");
  const faces = byId("faces-of-trials");
  const shown = JSON.stringify([real, pictured.map((trial) => [trials[trial.number], trial.best])]);
  if (faces.dataset.shown !== shown) faces.replaceChildren(...(real ? [realStrip()] : []), ...pictured.map(strip)); // otherwise each update would load them again
  faces.dataset.shown = shown;
  byId("clips").replaceChildren(...clips.map((clip) => make("li", { class: "clip" }, clip)));
}
