"""Ranks as threads of one process: a group for normlib.sync, without an engine."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np


class Group:
    """One rank of several, which wait for each other for a minute at most."""

    def __init__(self, rank, messages, barrier):
        self.rank, self.messages, self.barrier = rank, messages, barrier

    def allgather(self, message):
        self.messages[self.rank] = message
        self.barrier.wait()
        gathered = list(self.messages)
        self.barrier.wait()  # before one of them has the next message
        return gathered


def groups(count):
    """The groups of so many ranks."""
    messages, barrier = [b""] * count, threading.Barrier(count, timeout=60)
    return [Group(rank, messages, barrier) for rank in range(count)]


def together(function, arguments):
    """What `function(argument)` returns or raises for each rank, the ranks at the same time."""

    def outcome(argument):
        try:
            return function(argument)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(arguments)) as threads:
        found = [threads.submit(copy_context().run, outcome, argument) for argument in arguments]
        return [future.result() for future in found]


def shares(array, sizes, axis=0):
    """An array shared out in order."""
    return np.split(array, np.cumsum(sizes)[:-1], axis=axis)
