# SPDX-License-Identifier: BSD-3-Clause
"""What users write inside their framework, against fastreg's call there: tensor in, tensor out."""
