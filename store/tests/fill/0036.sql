INSERT INTO authority_rotations (before, next, certificate, phase, begun_at, begun_by)
VALUES (repeat('a', 64), repeat('b', 64), '-----BEGIN CERTIFICATE-----', 'begun', now(), 'ada via rpc');
UPDATE authority_rotations SET phase = 'switched', switched_at = now();
