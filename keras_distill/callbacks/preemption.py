"""Preemption: SIGTERM handling during `fit`."""

import os
import signal
import threading

import keras

# EX_TEMPFAIL of sysexits.h: the supervisor of the process should run the same command again.
EXIT_PREEMPTED = 75


class PreemptionHandler:
    """SIGTERM handler that records the signal and lets `fit` continue until it checks `requested`.

    Attributes:
        requested: Whether SIGTERM arrived since `install`.
    """

    def __init__(self):
        self.requested = False
        self._model = None
        self._previous = None

    def install(self, model: keras.Model) -> None:
        """Handle SIGTERM while the `fit` of this model runs. Does nothing outside of the main thread.

        Args:
            model: The model whose `fit` runs.
        """
        self.requested = False
        self._model = model
        self._previous = None
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle) or signal.SIG_DFL

    def uninstall(self) -> None:
        """Restore the previous handler."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _handle(self, number, frame):
        # Python calls this between two instructions of any code. It only sets a flag, so that a file that is being
        # written is completed, however many signals arrive.
        self.requested = True
        while frame is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is self._model:
                return
            frame = frame.f_back
        # An exception has ended `fit`, so nothing would check the flag: pass the signal on to the previous handler.
        self.uninstall()
        os.kill(os.getpid(), number)
