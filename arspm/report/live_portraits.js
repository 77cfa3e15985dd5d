// Portraits by epoch: the real faces, the portraits of the epoch that a slider chooses, and those of all epochs.

const ABOUT = {
  decoder: ["Decoder", "Decoded from the feature of the real face."],
  encoder: ["Encoder", "Drawn from speech."],
};

const shownPortraits = new Map(); // stage -> its elements, and whether the slider follows the latest epoch

const FACE_PIXELS = 130; // at most, of one face

/** Return a strip with this number of faces. */
const stripOf = (path, alt, numFaces) => make("img", { loading: "lazy", src: `../${path}`, alt, style: `max-width: ${FACE_PIXELS * numFaces}px` }); // `loading` comes first: `src` starts loading
const altOf = (stage, epoch) => `Portraits by the ${stage} after epoch ${epoch}`;

function buildPortraits(stage, pictures) {
  const [name, about] = ABOUT[stage];
  const clips = pictures.clips.length === 1 ? "one validation speaker" : `${formatCount(pictures.clips.length)} validation speakers`;
  const block = { slider: make("input", { type: "range", min: 0, step: 1 }), label: make("span", {}), figure: make("figure", {}), all: make("details", {}, make("summary", {}, "All epochs"), make("div", {})), follows: true, list: [], numEpochs: 0, numFaces: pictures.clips.length };
  block.slider.setAttribute("aria-label", `Epoch of the ${stage}`);
  block.slider.addEventListener("input", () => {
    block.follows = Number(block.slider.value) === block.list.length - 1;
    showEpoch(stage, block);
  });
  block.all.addEventListener("toggle", () => showAll(stage, block));
  byId("portraits-by-stage").append(make("div", { class: "epochs", id: `portraits-${stage}` },
    make("h3", {}, name),
    make("p", {}, `${about} The same clips of ${clips} after each epoch.`),
    make("figure", {}, make("figcaption", {}, "Real faces"), stripOf(pictures.real, `Real faces of ${pictures.clips.join(", ")}`, pictures.clips.length)),
    block.figure,
    make("label", {}, block.label, block.slider),
    block.all,
  ));
  return block;
}

/** Show the portraits of the chosen epoch. */
function showEpoch(stage, block) {
  const [epoch, path] = block.list[Number(block.slider.value)];
  block.label.textContent = `Epoch ${formatCount(epoch)} of ${formatCount(block.numEpochs)}`;
  block.slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
  if (block.figure.dataset.epoch !== String(epoch)) block.figure.replaceChildren(make("figcaption", {}, `After epoch ${formatCount(epoch)}`), stripOf(path, altOf(stage, epoch), block.numFaces));
  block.figure.dataset.epoch = epoch;
}

/** Show the portraits of all epochs, the latest first, if the user has opened the list. */
function showAll(stage, block) {
  const list = block.all.lastChild;
  if (!block.all.open || list.childElementCount === block.list.length) return;
  list.replaceChildren(...block.list.toReversed().map(([epoch, path]) => make("figure", {}, make("figcaption", {}, `Epoch ${formatCount(epoch)}`), stripOf(path, altOf(stage, epoch), block.numFaces))));
}

function updatePortraits(trainings) {
  const drawn = trainings.filter((training) => training.pictures && ABOUT[training.stage]);
  byId("no-portraits").hidden = drawn.length > 0;
  for (const { stage, pictures } of drawn) {
    if (!shownPortraits.has(stage)) shownPortraits.set(stage, buildPortraits(stage, pictures));
    const block = shownPortraits.get(stage);
    const chosen = block.follows ? pictures.epochs.length - 1 : Math.min(Number(block.slider.value), pictures.epochs.length - 1);
    block.list = pictures.epochs;
    block.numEpochs = pictures.num_epochs;
    block.slider.max = pictures.epochs.length - 1;
    block.slider.value = chosen;
    showEpoch(stage, block);
    showAll(stage, block);
  }
}
