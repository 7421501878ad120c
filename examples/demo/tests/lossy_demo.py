"""The demo, with an outbox that loses one event of a service for good."""

import sys

import asyncpg
from demo import main, run

drive = run.drive

# Noted in the transaction that loses it: a worker may be killed before that commits.
LOSE = """
    CREATE TABLE {schema}.lost (aggregateid text);
    CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM {schema}.lost) THEN
            RETURN NEW;
        END IF;
        INSERT INTO {schema}.lost VALUES (NEW.aggregateid);
        RETURN NULL;
    END $$;
    CREATE TRIGGER lose BEFORE INSERT ON {schema}.outbox FOR EACH ROW EXECUTE FUNCTION lose();
"""


async def drive_lossily(system, workload, *, console):
    connection = await asyncpg.connect(system.postgres_url)
    await connection.execute(LOSE.format(schema=sys.argv[1].replace("-", "_")))
    await connection.close()
    return await drive(system, workload, console=console)


if __name__ == "__main__":
    main.drive = drive_lossily
    run.STALLED_SECONDS = 10.0
    main.main()
