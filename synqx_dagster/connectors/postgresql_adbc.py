"""The few calls of ADBC that reading takes, over the driver's own objects.

Not by its DB-API module, which imports pyarrow.dataset, and that, where pandas is installed, imports pandas: 43 MB and
0.6 s of CPU of each process for nothing that is used here.
"""

from __future__ import annotations

from typing import Any


class AdbcConnection:
    """A connection to a server, which begins its transaction with its first statement."""

    def __init__(self, dsn: str) -> None:
        import adbc_driver_manager
        import adbc_driver_postgresql

        self._database = adbc_driver_postgresql.connect(dsn)
        try:
            self._connection = adbc_driver_manager.AdbcConnection(self._database)
            try:
                self._connection.set_autocommit(False)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._database.close()
            raise

    def cursor(self) -> AdbcCursor:
        """What runs statements, one after another; to be closed before the connection."""
        return AdbcCursor(self._connection)

    def close(self) -> None:
        """Leave the server, which rolls back."""
        self._connection.close()
        self._database.close()


class AdbcCursor:
    """Runs statements; use as a context manager, or close it."""

    def __init__(self, connection: Any) -> None:
        import adbc_driver_manager

        self._statement = adbc_driver_manager.AdbcStatement(connection)
        self._stream: Any = None

    def __enter__(self) -> AdbcCursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_options(self, **options: str) -> None:
        """Set options of the statements that follow."""
        self._statement.set_options(**options)

    def execute(self, sql: str) -> None:
        """Run a statement as one that is prepared."""
        # In the main thread it has Ctrl-C cancel the call, which would go on otherwise.
        from adbc_driver_manager._lib import _blocking_call

        self._release()
        statement = self._statement
        statement.set_sql_query(sql)
        _blocking_call(statement.prepare, (), {}, statement.cancel)
        self._stream, _ = _blocking_call(statement.execute_query, (), {}, statement.cancel)

    def take_stream(self) -> Any:
        """The result as an Arrow stream, which belongs to the caller; once."""
        stream, self._stream = self._stream, None
        return stream

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row of the result; None without one."""
        import pyarrow as pa

        with pa.RecordBatchReader.from_stream(self.take_stream()) as reader:
            table = reader.read_all()
        return tuple(column[0].as_py() for column in table.columns) if table.num_rows else None

    def cancel(self) -> None:
        """Have the call end that waits for the server; from any thread."""
        self._statement.cancel()

    def close(self) -> None:
        """Give up what is left of the result."""
        self._release()
        self._statement.close()

    def _release(self) -> None:
        stream = self.take_stream()
        if stream is not None:
            stream.release()
