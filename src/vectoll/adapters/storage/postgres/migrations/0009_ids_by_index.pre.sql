-- Whether a transfer has an id is looked up in the index. As EXISTS the planner may read all ids into a table of its own
-- instead, which is cheap when a ledger is new: the plan of those first minutes then read every transfer for each call,
-- with accounts locked, until the statistics were renewed.
DO $$
DECLARE
    v_function regproc;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['vectoll.take_holds', 'vectoll.charge']::regproc[] LOOP
        EXECUTE replace(
            pg_get_functiondef(v_function),
            'EXISTS (SELECT 1 FROM vectoll.transfers t WHERE t.id = i.id)',
            '(SELECT true FROM vectoll.transfers t WHERE t.id = i.id) IS NOT NULL'
        );
    END LOOP;
END
$$;
