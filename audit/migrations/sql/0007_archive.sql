-- What was archived stays archived.
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_archive FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_archive FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
ALTER TABLE audit_archive ENABLE ALWAYS TRIGGER audit_append_only;
ALTER TABLE audit_archive ENABLE ALWAYS TRIGGER audit_no_truncate;
