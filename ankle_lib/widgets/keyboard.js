// Sends keys that are pressed while the board has the focus.
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
    // JupyterLab has commands on single letters: it is to leave them alone here
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
