# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bridge between an AstrBot and the platform that hosts it. See README.md."""
