-- One policy revision. $1 platform  $2 revision
SELECT document, document_sha256 FROM policy_revision WHERE platform = $1 AND revision = $2
