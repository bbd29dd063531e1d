/** Questions before something is done that cannot be undone. The browser's own dialog: it keeps the focus. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { trouble, type Trouble } from "../api";
import { TroubleBox } from "./parts";

export function Dialog({
  title,
  onClose,
  children,
}: {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const { current } = dialog;
    current?.showModal();
    return () => current?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      onClose={onClose}
      onClick={(event) => {
        // Beside it.
        if (event.target === dialog.current) onClose();
      }}
    >
      <div class="dialog">
        <h2>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

/** A button that asks, then does it, and says why where that fails. */
export function Act({
  label,
  question,
  text,
  yes,
  danger = false,
  act,
  done,
}: {
  label: string;
  question: string;
  text: ComponentChildren;
  yes: string;
  danger?: boolean;
  act: () => Promise<unknown>;
  done?: () => void;
}) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [why, setWhy] = useState<Trouble>();
  const close = () => {
    setOpen(false);
    setWhy(undefined);
  };
  const run = async () => {
    setBusy(true);
    try {
      await act();
      close();
      done?.();
    } catch (cause) {
      setWhy(trouble(cause));
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <button type="button" class={danger ? "danger" : ""} onClick={() => setOpen(true)}>
        {label}
      </button>
      {open ? (
        <Dialog title={question} onClose={close}>
          <p>{text}</p>
          {why ? <TroubleBox of={why} /> : null}
          <div class="dialog-actions">
            <button type="button" onClick={close}>
              No, leave it
            </button>
            <button
              type="button"
              class={danger ? "danger solid" : "primary"}
              disabled={busy}
              onClick={() => void run()}
            >
              {busy ? "…" : yes}
            </button>
          </div>
        </Dialog>
      ) : null}
    </>
  );
}
