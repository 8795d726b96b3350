-- Append-only tables that the present role could change, and so must not serve with.
SELECT t.name FROM unnest(ARRAY['card_event', 'posting', 'command', 'risk_event', 'risk_pair']) AS t (name)
WHERE has_table_privilege(current_user, t.name, 'UPDATE')
   OR has_table_privilege(current_user, t.name, 'DELETE')
   OR has_table_privilege(current_user, t.name, 'TRUNCATE')
