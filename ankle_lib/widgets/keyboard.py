"""Keys for a view: pressed in the browser, heard in Python."""

from __future__ import annotations

import anywidget
import traitlets

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
