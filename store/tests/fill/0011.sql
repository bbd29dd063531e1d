INSERT INTO coordinators (process, address, version, storage, since, expires_at)
VALUES ('00000000-0000-0000-0000-000000000011', '127.0.0.1:7700', '0.1.0', '00000000-0000-0000-0000-000000000012',
        now(), now() + interval '3 s');
INSERT INTO leaderships (epoch, process, address, began_at)
VALUES (1, '00000000-0000-0000-0000-000000000011', '127.0.0.1:7700', now());
