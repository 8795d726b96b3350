-- Append-only tables that the present role could change, and so must not serve with. A table not there yet is no matter.
SELECT t.name FROM unnest(ARRAY['policy_revision', 'policy_activation', 'price', 'card_serial', 'card_event', 'posting', 'coupon',
                                 'command',
                                 'risk_event', 'risk_pair', 'risk_link', 'risk_label', 'list_entry',
                                 'outcome', 'redemption', 'goodwill']) AS t (name)
WHERE has_table_privilege(current_user, to_regclass(t.name), 'UPDATE, DELETE, TRUNCATE')
   OR has_any_column_privilege(current_user, to_regclass(t.name), 'UPDATE')
