"""Where everything is kept that outlives a request: the port ``Store``, three times, and the data directory's lock.

::

    store = await open_sqlite(data_dir)      # vectoll.adapters.storage.sqlite: one file, durable
    store = await open_postgres(url)         # vectoll.adapters.storage.postgres: one database for many gateways
    store = MemoryStore()                    # vectoll.adapters.storage.memory: gone with the process
    store.ledger, store.keys, store.payments, store.nonces, store.history, store.allowances
    await store.close()                      # waits for what is being committed, then frees the file

A store belongs to the event loop in which it was opened. Several processes may open one SQLite data directory (a
command adds credit while the server runs); only one may serve from it, which ``DataDirLock`` enforces.
"""
