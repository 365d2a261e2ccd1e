"""Logs: a fixed phrase, then fields, one line each, on standard error."""

import logging
import sys

import structlog

Logger = structlog.typing.FilteringBoundLogger

LEVELS = ("debug", "info", "warning", "error")


def make_logger(level: str = "info", **fields: object) -> Logger:
    """Give a logger for this process that adds *fields* to every line."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=["at", "level", "event"], bool_as_flag=False),
    ]
    logger: Logger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )
    return logger.bind(**fields)
