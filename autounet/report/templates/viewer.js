(() => {
  "use strict";
  const root = document.getElementById("viewer");
  const say = (text) => { root.querySelector(".say").textContent = text; };
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => { const hex = style.getPropertyValue(name).trim(); return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)); };
  const targets = JSON.parse(root.dataset.targets);
  const colours = 8;
  const stage = root.querySelector(".stage"), slider = root.querySelector("input");
  const order = ["predicted", "truth", "differing"];
  const scripts = {};
  let viewer = null, overlay = "predicted", handed = null, turn = 0;

  // A page that was opened from a file may load scripts and nothing else: a volume is a script that calls this.
  window.autounetVolumes = (volumes) => { handed = volumes; };
  const load = (name) => scripts[name] ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.onload = () => { done(handed); handed = null; };
    script.onerror = () => { delete scripts[name]; failed(new Error(`viewer/${name} is not beside this page`)); };
    script.src = `viewer/${name}`;
    document.head.append(script);
  });
  const table = (names, colour) => ({
    R: [0, ...names.map((_, at) => rgb(colour(at))[0])], G: [0, ...names.map((_, at) => rgb(colour(at))[1])],
    B: [0, ...names.map((_, at) => rgb(colour(at))[2])], A: [0, ...names.map(() => 255)], labels: ["", ...names],
  });
  const show = () => {
    order.forEach((name, at) => viewer.setOpacity(at + 1, name === overlay ? Number(slider.value) : 0));
    viewer.updateInterpolation(0, true);  // the image is smooth; masks have nothing between their values
    viewer.drawScene();
    root.querySelectorAll("[data-overlay]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.overlay === overlay)));
    stage.querySelector(".legend").hidden = overlay !== "differing";
  };
  const start = async () => {
    await load("niivue.umd.js");
    stage.hidden = false;
    const made = new window.niivue.Niivue({
      logLevel: "error", dragAndDropEnabled: false, loadingText: "", isColorbar: false, isNearestInterpolation: true, backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.7],
      crosshairWidth: 0.12, crosshairWidthUnit: "percent", isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: false, multiplanarShowRender: 0, isOrientCube: false,
    });
    await made.attachToCanvas(stage.querySelector("canvas"));
    made.setSliceType(made.sliceTypeMultiplanar);
    return made;
  };
  const open = async (number) => {
    const mine = ++turn;
    root.dataset.state = "loading";
    say("Loading …");
    root.querySelectorAll("[data-case]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.case === String(number))));
    viewer ??= await start();
    const bytes = await load(`case_${number}.js`);
    const image = { base64: bytes.image, name: "image.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 };
    const volumes = [await window.niivue.NVImage.loadFromBase64(image)];
    for (const name of order) volumes.push(await window.niivue.NVImage.loadFromBase64({ base64: bytes[name], name: `${name}.nii.gz`, opacity: 0 }));
    if (mine !== turn) return;  // somebody chose another case meanwhile
    for (const old of [...viewer.volumes]) viewer.removeVolume(old);
    const classes = table(targets, (at) => `--k${(at % colours) + 1}`);
    const kinds = table(["missed", "invented", "another class"], (at) => ["--k4", "--k6", "--k3"][at]);
    volumes.forEach((volume, at) => { if (at) volume.setColormapLabel(order[at - 1] === "differing" ? kinds : classes); viewer.addVolume(volume); });
    show();
    say("");
    root.dataset.state = "ready";
  };
  const failed = (error) => { root.dataset.state = "failed"; say(`The viewer could not start: ${error.message}. The pictures above show the same cases.`); };

  root.querySelectorAll("[data-case]").forEach((one) => one.addEventListener("click", () => {
    if (!document.createElement("canvas").getContext("webgl2")) {
      root.dataset.state = "without";
      say("This browser draws no volumes (WebGL2 is missing or switched off). The pictures above show the same cases.");
      return;
    }
    open(one.dataset.case).catch(failed);
  }));
  root.querySelectorAll("[data-overlay]").forEach((one) => one.addEventListener("click", () => { overlay = one.dataset.overlay; show(); }));
  slider.addEventListener("input", show);
})();
