/** Users with their roles, and the tokens by which they show who they are. */

import { users as service } from "../api";
import type { Token, User } from "../gen/marquee/v1/users_pb";
import { useAnswer } from "../live";
import { Act } from "../ui/dialog";
import { Ago, Card, Command, Empty, Skeleton, TroubleBox } from "../ui/parts";
import { plural } from "../words";
import { roleWords, useWho } from "../who";

export function UsersPart() {
  const answer = useAnswer("users", (signal) => service.listUsers({}, { signal }));
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  const all = answer.value.users;
  return (
    <div class="stack">
      <Card title="Users" more={<span class="quiet">{plural(all.length, "user")}</span>}>
        {all.length === 0 ? (
          <Empty title="There are no users: whoever may connect may do everything">
            <p>The first one changes that.</p>
          </Empty>
        ) : (
          <table class="list list-cards">
            <thead>
              <tr>
                <th scope="col">User</th>
                <th scope="col">Roles</th>
                <th scope="col" class="right">
                  Tokens
                </th>
                <th scope="col">Made by</th>
                <th scope="col" class="right">
                  Used
                </th>
              </tr>
            </thead>
            <tbody>
              {all.map((user) => (
                <UserRow key={user.name} user={user} />
              ))}
            </tbody>
          </table>
        )}
      </Card>
      <Card title="To change them">
        <div class="inside stack">
          <Command line="marquee admin user add ada --role admin" />
          <Command line="marquee admin user role bob --role submitter --project vision" />
          <Command line="marquee admin user remove bob" />
        </div>
      </Card>
    </div>
  );
}

function UserRow({ user }: { user: User }) {
  return (
    <tr>
      <td>{user.name}</td>
      <td class="row-wide">{roleWords(user.grants)}</td>
      <td class="right num row-hide">{user.tokens}</td>
      <td>{user.createdBy}</td>
      <td class="right">{user.usedAt ? <Ago at={user.usedAt} /> : <span class="quiet">never</span>}</td>
    </tr>
  );
}

export function TokensPart() {
  const { identity } = useWho();
  const answer = useAnswer("tokens", (signal) => service.listTokens({}, { signal }));
  if (!answer.value)
    return answer.trouble ? <TroubleBox of={answer.trouble} again={answer.again} /> : <Skeleton lines={6} />;
  const all = answer.value.tokens;
  return (
    <div class="stack">
      <Card
        title={identity?.isAdmin === false ? "Your tokens" : "Tokens"}
        more={<span class="quiet">{plural(all.length, "token")}</span>}
      >
        {all.length === 0 ? (
          <Empty title="There are no tokens" />
        ) : (
          <table class="list list-cards">
            <thead>
              <tr>
                <th scope="col">Token</th>
                <th scope="col">User</th>
                <th scope="col">State</th>
                <th scope="col">Ends</th>
                <th scope="col">Used</th>
                <th scope="col" class="right">
                  <span class="sr">Revoke</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {all.map((token) => (
                <TokenRow key={token.id} token={token} again={answer.again} />
              ))}
            </tbody>
          </table>
        )}
      </Card>
      {identity?.isAdmin === false ? null : (
        <Card title="To make one">
          <div class="inside stack">
            <Command line="marquee admin token create ada --ttl 90d" />
          </div>
        </Card>
      )}
    </div>
  );
}

function TokenRow({ token, again }: { token: Token; again: () => void }) {
  return (
    <tr>
      <td>
        <code>{token.id}</code>
        {token.note === "" ? null : <span class="of">{token.note}</span>}
      </td>
      <td>{token.user}</td>
      <td>
        {token.state}
        {token.browsers > 0 ? <span class="of">{plural(token.browsers, "browser")}</span> : null}
      </td>
      <td>
        <Ago at={token.expiresAt} />
      </td>
      <td>{token.usedAt ? <Ago at={token.usedAt} /> : <span class="quiet">never</span>}</td>
      <td class="right">
        {token.state === "valid" ? (
          <Act
            label="Revoke"
            question={`Revoke token ${token.id}?`}
            text={`Programs and browsers of ${token.user} that use it are refused at once. Nothing brings it back.`}
            yes="Revoke it"
            danger
            act={() => service.revokeToken({ id: token.id })}
            done={again}
          />
        ) : null}
      </td>
    </tr>
  );
}
