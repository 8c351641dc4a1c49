"""`manage.py restore_drill`: is the backup one?"""

import time
from pathlib import Path

from audit.drill import examine
from audit.management.commands import verify_audit
from audit.scratch import restored
from audit.verification.report import in_words


class Command(verify_audit.Command):
    help = (
        "Restore a dump of pg_dump (-Fc, -Fd or -Ft) into a database of its own on the configured server, verify its audit log, "
        "compare it with the checkpoints on the topic, say what was lost since, and drop it. The role needs CREATEDB. Exit "
        "codes: 0 sound, 1 tampered, 2 could not be restored or checked, 3 sound but for a loss that is on record."
    )

    def add_arguments(self, parser):
        parser.add_argument("dump", type=Path, metavar="DUMP")
        parser.add_argument("--keep", action="store_true", help="leave the restored database there")
        parser.add_argument("--pg-restore", metavar="PROGRAM", help="unless it is the one on the PATH")
        super().add_arguments(parser)

    def look(self, keys, held, how, *, dump, keep, pg_restore, **_):
        began = time.monotonic()
        with restored(dump, keep, pg_restore) as name:
            seconds = time.monotonic() - began
            drill = examine(keys, held, how)
        document = {"dump": str(dump), "database": name, "kept": keep, "restored_in": round(seconds, 3), **drill.as_json()}
        words = f"{dump} restored in {seconds:.1f} s as {name}{', which stays there' if keep else ''}"
        return drill.report, document, f"{words}\n\n{in_words(drill.report)}\n\n{drill.in_words()}"
