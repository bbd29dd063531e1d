/** The coordinator's services, as its `.proto` files describe them. There is no other way to it. */

import type { DescService } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb";
import { Artifacts } from "./gen/marquee/v1/artifacts_pb";
import { Audit } from "./gen/marquee/v1/audit_pb";
import { Cluster } from "./gen/marquee/v1/cluster_pb";
import { Jobs } from "./gen/marquee/v1/jobs_pb";
import { Projects } from "./gen/marquee/v1/projects_pb";
import { Schedules } from "./gen/marquee/v1/schedules_pb";
import { Users } from "./gen/marquee/v1/users_pb";
import { Workers } from "./gen/marquee/v1/workers_pb";

const transport = createGrpcWebTransport({ baseUrl: "/" });
const client = <S extends DescService>(service: S) => createClient(service, transport);

export const jobs = client(Jobs);
export const artifacts = client(Artifacts);
export const workers = client(Workers);
export const cluster = client(Cluster);
export const projects = client(Projects);
export const audit = client(Audit);
export const schedules = client(Schedules);
export const users = client(Users);

/** A field of a document that is wrong, and why. */
export interface WrongField {
  field: string;
  why: string;
}

/** An error as a person reads it. */
export interface Trouble {
  title: string;
  text: string;
  /** Names a page of docs/errors; empty: it has none. */
  code: string;
  fields: WrongField[];
  /** The same may work in a moment, by itself. */
  passes: boolean;
}

export function trouble(cause: unknown): Trouble {
  const error = ConnectError.from(cause);
  const info = error.findDetails(ErrorInfoSchema)[0];
  const fields = error
    .findDetails(BadRequestSchema)
    .flatMap((bad) => bad.fieldViolations)
    .map((violation) => ({ field: violation.field, why: violation.description }));
  const passes = [Code.Unavailable, Code.DeadlineExceeded, Code.Aborted, Code.Unknown].includes(error.code);
  return { title: title(error), text: error.rawMessage, code: info?.reason ?? "", fields, passes };
}

function title(error: ConnectError): string {
  switch (error.code) {
    case Code.NotFound:
      return "It is not there";
    case Code.InvalidArgument:
      return "The coordinator refused it";
    case Code.FailedPrecondition:
    case Code.AlreadyExists:
      return "Not possible now";
    case Code.Unauthenticated:
      return "Log in first";
    case Code.PermissionDenied:
      return "You may not do that";
    case Code.Unavailable:
    case Code.DeadlineExceeded:
    case Code.Unknown:
      return "The coordinator does not answer";
    default:
      return "That did not work";
  }
}

/** Whether somebody went away on purpose: no trouble at all. */
export function isAbort(cause: unknown): boolean {
  return ConnectError.from(cause).code === Code.Canceled;
}
