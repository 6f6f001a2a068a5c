"""The breccia dialect: attributes, types, ops, printer, forms, interpreter."""
