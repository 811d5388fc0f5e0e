"""The two scripts in the browser: a picture that tells where the mouse is, and keys for a board."""

from __future__ import annotations

import anywidget
import traitlets


class PictureCanvas(anywidget.AnyWidget):
    """Shows an encoded picture in a given size; only the picture travels to the browser.

    It sends ``{"kind": …, "x": …, "y": …}``: "move", "click" or "leave", and where the mouse is, 0
    to 1 from the left and top.
    """

    picture = traitlets.Bytes().tag(sync=True)
    """PNG or JPEG."""
    size_px = traitlets.List(traitlets.Int(), default_value=[1, 1]).tag(sync=True)
    """Width and height on the screen."""
    text = traitlets.Unicode().tag(sync=True)
    """What the picture shows, for those who cannot see it."""

    # The mouse is asked at most every 50 ms, and its last place is never lost.
    _esm = """
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
    """


BOARD_CLASS = "ankle-board"
"""CSS class of the widget in which a `Keyboard` listens; the keyboard must lie inside it."""


class Keyboard(anywidget.AnyWidget):
    """Sends ``{"key": …}`` for keys that are pressed while the board around it has the focus.

    Keys typed into a text field stay there, and arrows stay with a slider that has the focus.
    """

    listened_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Which keys to send, as JavaScript names them in ``KeyboardEvent.key``."""

    # JupyterLab has commands on single letters; the attribute tells it to leave them alone here.
    _esm = """
    const typing = 'textarea, select, [contenteditable="true"], ' +
      'input:not([type="checkbox"]):not([type="button"])';

    function render({ model, el }) {
      let board = null, waiting = 0;

      function onKey(event) {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        if (event.target.closest(typing)) return;
        if (event.target.closest('[role="slider"]') && event.key.startsWith("Arrow")) return;
        if (!model.get("listened_keys").includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        model.send({ key: event.key });
      }

      function attach() {
        board = el.closest(".ankle-board");
        if (!board) {
          waiting = requestAnimationFrame(attach);
          return;
        }
        board.tabIndex = 0;
        board.setAttribute("data-lm-suppress-shortcuts", "true");
        board.addEventListener("keydown", onKey);
      }

      attach();
      return () => {
        cancelAnimationFrame(waiting);
        if (board) board.removeEventListener("keydown", onKey);
      };
    }

    export default { render };
    """
