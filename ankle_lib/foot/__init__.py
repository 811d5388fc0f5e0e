"""One's own scans, without a cohort: `ankle register`, `ankle segment`, `ankle reconstruct`.

``reading`` reads and checks scans and masks, ``possible`` knows what no foot has, ``results``
writes all files of a result or none;
``register``, ``segment`` and ``reconstruct`` do the work of one command each and tell its outcome.
"""
