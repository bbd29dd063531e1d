/** Logging in: a token, once, for a session of this browser. */

import { useState } from "preact/hooks";
import { trouble, users, type Trouble } from "../api";
import { Card, Command, TroubleBox } from "../ui/parts";
import { useWho } from "../who";

export function LoginPage() {
  const { again } = useWho();
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const [why, setWhy] = useState<Trouble>();
  const run = async () => {
    setBusy(true);
    try {
      await users.logIn({ token });
      setToken("");
      again();
    } catch (cause) {
      setWhy(trouble(cause));
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <div class="head">
        <h1>Log in</h1>
      </div>
      <div class="two">
        <Card title="Your token">
          <form
            class="inside stack"
            onSubmit={(event) => {
              event.preventDefault();
              void run();
            }}
          >
            <label class="field">
              <span>Token</span>
              <input
                type="password"
                name="token"
                autocomplete="current-password"
                spellcheck={false}
                required
                maxLength={200}
                placeholder="mqu_…"
                value={token}
                onInput={(event) => setToken(event.currentTarget.value)}
              />
            </label>
            <p class="quiet">It is sent once. This browser then has a session of 12 hours, which it alone can use.</p>
            {why ? <TroubleBox of={why} /> : null}
            <div>
              <button type="submit" class="primary" disabled={busy || token.trim() === ""}>
                {busy ? "Logging in…" : "Log in"}
              </button>
            </div>
          </form>
        </Card>
        <Card title="No token yet?">
          <div class="inside stack">
            <p>Whoever runs this cluster makes one:</p>
            <Command line="marquee admin token create YOU" />
          </div>
        </Card>
      </div>
    </>
  );
}

/** Who is logged in, and the way out. */
export function Me() {
  const { identity } = useWho();
  if (identity?.hasUsers !== true || identity.means === "") return null;
  const out = async () => {
    try {
      await users.logOut({});
    } finally {
      // A new page: nothing of what was shown to one is left for the next.
      sessionStorage.clear();
      window.location.assign("/");
    }
  };
  return (
    <span class="quiet">
      {identity.name}{" "}
      {identity.means === "browser" ? (
        <button type="button" class="plain" onClick={() => void out()}>
          Log out
        </button>
      ) : null}
    </span>
  );
}
