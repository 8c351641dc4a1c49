"""What a migration does to many rows, in short transactions."""


def run(schema_editor, statement: str, before_all) -> None:
    """Runs a statement until it finds nothing more, each time in a transaction of its own (the migration is not atomic). Its only
    parameter is the key after which it begins, at first `before_all`; its row is the last key that it came to."""
    row = (before_all,)
    with schema_editor.connection.cursor() as cursor:
        while row:
            cursor.execute(statement, row)
            row = cursor.fetchone()
