-- Append-only tables that the present role could change, and so must not serve with. A table not there yet is no matter.
SELECT t.name FROM unnest(ARRAY['card_event', 'posting', 'command', 'risk_event', 'risk_pair']) AS t (name)
WHERE has_table_privilege(current_user, to_regclass(t.name), 'UPDATE')
   OR has_table_privilege(current_user, to_regclass(t.name), 'DELETE')
   OR has_table_privilege(current_user, to_regclass(t.name), 'TRUNCATE')
