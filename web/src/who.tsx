/** Who the reader is to this cluster, and what he may do: asked once, and again when he logs in or out. */

import { createContext } from "preact";
import type { ComponentChildren } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { users } from "./api";
import type { Grant, Identity } from "./gen/marquee/v1/users_pb";

/** Milliseconds until a coordinator that did not answer is asked again. */
const AGAIN_AFTER = 2_000;

export type Role = "viewer" | "submitter" | "admin";
const ROLES: Role[] = ["viewer", "submitter", "admin"];

export interface Known {
  /** Unset until the coordinator has answered. */
  identity?: Identity;
  /** How often somebody logged in: streams begin anew with each. */
  turn: number;
  again: () => void;
}

const Context = createContext<Known>({ turn: 0, again: () => undefined });

export const useWho = () => useContext(Context);

export function WhoKeeper({ children }: { children: ComponentChildren }) {
  const [identity, setIdentity] = useState<Identity>();
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    void ask(stop.signal, setIdentity);
    return () => stop.abort();
  }, [turn]);
  const known = { turn, again: () => setTurn((now) => now + 1), ...(identity ? { identity } : {}) };
  return <Context.Provider value={known}>{children}</Context.Provider>;
}

async function ask(stop: AbortSignal, tell: (identity: Identity) => void): Promise<void> {
  while (!stop.aborted) {
    try {
      const identity = await users.whoAmI({}, { signal: stop });
      tell(identity);
      return;
    } catch {
      // That it does not answer is said by the stream of the overview.
      await new Promise((done) => setTimeout(done, AGAIN_AFTER));
    }
  }
}

/** Nobody that the cluster knows: the page asks for a token. */
export const isStranger = (identity: Identity | undefined) => identity?.hasUsers === true && identity.means === "";

/** The greatest role in a project, or in any where none is named. */
export function roleIn(identity: Identity, project?: string): Role | undefined {
  if (identity.isAdmin) return "admin";
  const counts = identity.grants.filter((grant) => grant.project === "" || !project || grant.project === project);
  return ROLES.filter((role) => counts.some((grant) => grant.role === role)).at(-1);
}

/** Why the reader may not do something; undefined: he may. Until it is known who he is nothing is kept from him. */
export function denied(identity: Identity | undefined, role: Role, project?: string): string | undefined {
  if (!identity) return undefined;
  const has = roleIn(identity, project);
  if (has && ROLES.indexOf(has) >= ROLES.indexOf(role)) return undefined;
  return `To change this takes ${role === "submitter" ? "a submitter" : "an administrator"}${project ? ` in ${project}` : ""}`;
}

/** The same for who takes an administrator of everything. */
export const deniedToGovern = (identity: Identity | undefined) =>
  !identity || identity.isAdmin ? undefined : "This takes an administrator of all projects";

export function roleWords(grants: Grant[]): string {
  if (grants.length === 0) return "no role";
  return grants.map(({ project, role }) => `${role} ${project === "" ? "everywhere" : `in ${project}`}`).join(", ");
}
