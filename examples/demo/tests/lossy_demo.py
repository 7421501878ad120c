"""The demo, with an outbox that loses one event of a service for good."""

import sys

import asyncpg
from demo import main, run

drive = run.drive

LOSE = """
    CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER lose BEFORE INSERT ON {schema}.outbox
        FOR EACH ROW WHEN (NEW.position = 7) EXECUTE FUNCTION lose();
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
