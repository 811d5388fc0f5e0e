// The mouse is asked at most every 50 ms, and its last place is never lost.
const PAUSE_MS = 50;

function render({ model, el }) {
  const image = document.createElement("img");
  image.className = "ankle-picture";
  image.draggable = false;
  Object.assign(image.style, { display: "block", cursor: "crosshair", background: "black" });
  let address = null, timer = 0, latest = null;

  function show() {
    const old = address;
    address = URL.createObjectURL(new Blob([model.get("picture")]));
    image.src = address;
    [image.width, image.height] = model.get("size_px");
    image.alt = model.get("text");
    if (old) URL.revokeObjectURL(old);
  }
  function send(kind, event) {
    const box = image.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    model.send({ kind, x: Math.min(Math.max(x, 0), 1), y: Math.min(Math.max(y, 0), 1) });
  }
  function onMove(event) {
    latest = event;
    if (timer) return;
    timer = setTimeout(() => { timer = 0; if (latest) send("move", latest); }, PAUSE_MS);
  }
  function onClick(event) { send("click", event); }
  function onLeave(event) { latest = null; send("leave", event); }

  image.addEventListener("mousemove", onMove);
  image.addEventListener("click", onClick);
  image.addEventListener("mouseleave", onLeave);
  model.on("change", show);
  show();
  el.appendChild(image);
  return () => {
    clearTimeout(timer);
    model.off("change", show);
    URL.revokeObjectURL(address);
  };
}

export default { render };
