from benchmarks import parking
from benchmarks.fleet import main

if __name__ == "__main__":
    main(
        parking.__doc__,
        parking.SIZES,
        parking.measure,
        parking.bars,
        quick=parking.QUICK,
        tables=parking.tables,
        parts=tuple(parking.PARTS),
    )
