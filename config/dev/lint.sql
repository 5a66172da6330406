-- One line for each finding of plpgsql_check in the functions of schema chatpulse. A trigger function is
-- checked once for each table that it is on.
SELECT format('%s line %s: %s: %s %s', f.oid::regprocedure, c.lineno, c.level, c.message, c.detail)
FROM pg_proc f
JOIN pg_language l ON l.oid = f.prolang AND l.lanname = 'plpgsql'
JOIN pg_namespace n ON n.oid = f.pronamespace AND n.nspname = 'chatpulse'
LEFT JOIN pg_trigger t ON t.tgfoid = f.oid AND NOT t.tgisinternal
CROSS JOIN LATERAL plpgsql_check_function_tb(
    f.oid, coalesce(t.tgrelid, 0)::regclass, extra_warnings => false, performance_warnings => false
) AS c
WHERE f.prorettype <> 'trigger'::regtype OR t.oid IS NOT NULL
ORDER BY 1;
