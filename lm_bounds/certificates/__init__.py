"""Certificates: what was fixed, what was seen, what follows, and its verification."""

from lm_bounds.certificates.build import write_certificates
from lm_bounds.certificates.evidence import CorpusFacts, ModelFacts, Observations, Plan
from lm_bounds.certificates.files import Certificate, latest_certificates, read_certificate
from lm_bounds.certificates.verify import Verification, verify

__all__ = [
    "Certificate",
    "CorpusFacts",
    "ModelFacts",
    "Observations",
    "Plan",
    "Verification",
    "latest_certificates",
    "read_certificate",
    "verify",
    "write_certificates",
]
