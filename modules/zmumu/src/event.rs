//! Pairs of muons, and how a Z makes them.

use std::f64::consts::{PI, TAU};

use farm::Rng;

/// The Z's mass and width and the muon's mass in GeV (Particle Data Group, 2024).
pub(crate) const Z_MASS: f64 = 91.188;
pub(crate) const Z_WIDTH: f64 = 2.4955;
pub(crate) const MUON_MASS: f64 = 0.105_658_375_5;

/// The masses in GeV between which Zs are made. What is left out is 3 % of the distribution.
pub(crate) const MASSES: (f64, f64) = (40.0, 200.0);

/// The mean transverse momentum of a Z in GeV is twice this.
const TRANSVERSE_SCALE: f64 = 6.0;
/// The spread of a Z's rapidity, and the largest one.
const RAPIDITY_SPREAD: f64 = 1.3;
const LARGEST_RAPIDITY: f64 = 3.0;
/// The relative error of a muon's momentum: a constant part, and one that grows with the transverse momentum in GeV.
const RESOLUTION: f64 = 0.010;
const RESOLUTION_PER_GEV: f64 = 0.000_1;

/// Energy and momentum in GeV.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FourMomentum {
    pub(crate) e: f64,
    pub(crate) p: [f64; 3],
}

impl FourMomentum {
    /// That of a particle of mass `m`.
    fn on_shell(m: f64, p: [f64; 3]) -> Self {
        Self { e: (m * m + square(p)).sqrt(), p }
    }

    /// The invariant mass. Rounding may lead to a negative square, which counts as nothing.
    pub(crate) fn mass(&self) -> f64 {
        (self.e * self.e - square(self.p)).max(0.0).sqrt()
    }

    pub(crate) fn transverse(&self) -> f64 {
        self.p[0].hypot(self.p[1])
    }

    /// The same particle, seen from where the one that is at rest here has the four-momentum `frame`.
    fn boosted(&self, frame: &Self) -> Self {
        let mass = frame.mass();
        let along: f64 = frame.p.iter().zip(self.p).map(|(a, b)| a * b).sum();
        let factor = (along / (frame.e + mass) + self.e) / mass;
        Self {
            e: (frame.e * self.e + along) / mass,
            p: std::array::from_fn(|axis| self.p[axis] + factor * frame.p[axis]),
        }
    }
}

impl std::ops::Add for FourMomentum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { e: self.e + other.e, p: std::array::from_fn(|axis| self.p[axis] + other.p[axis]) }
    }
}

fn square(p: [f64; 3]) -> f64 {
    p.iter().map(|component| component * component).sum()
}

/// A muon and its charge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Muon {
    pub(crate) momentum: FourMomentum,
    pub(crate) charge: i8,
}

/// Two muons of one event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair(pub(crate) Muon, pub(crate) Muon);

impl Pair {
    /// The mass of the particle that could have decayed into the two.
    pub(crate) fn mass(&self) -> f64 {
        (self.0.momentum + self.1.momentum).mass()
    }
}

/// A Z, its decay, and what the detector makes of it.
pub(crate) fn generate(rng: &mut Rng) -> Pair {
    let z = z(rng);
    let pair = decay(rng, &z);
    Pair(measure(rng, pair.0), measure(rng, pair.1))
}

/// A Z as collisions of protons make it.
pub(crate) fn z(rng: &mut Rng) -> FourMomentum {
    let mass = breit_wigner(rng);
    // The sum of two exponentials: rises from 0, has its peak at the scale, and a tail.
    let transverse = -TRANSVERSE_SCALE * ((1.0 - rng.f64()) * (1.0 - rng.f64())).ln();
    let rapidity = loop {
        let rapidity = RAPIDITY_SPREAD * rng.normal();
        if rapidity.abs() < LARGEST_RAPIDITY {
            break rapidity;
        }
    };
    let (sin, cos) = rng.uniform(-PI..PI).sin_cos();
    let along = mass.hypot(transverse) * rapidity.sinh();
    FourMomentum::on_shell(mass, [transverse * cos, transverse * sin, along])
}

/// A mass of the relativistic Breit-Wigner distribution: the density of s = m² is 1 / ((s − M²)² + M²Γ²).
pub(crate) fn breit_wigner(rng: &mut Rng) -> f64 {
    // The integral of that density is an arctangent.
    let angle = |mass: f64| ((mass * mass - Z_MASS * Z_MASS) / (Z_MASS * Z_WIDTH)).atan();
    let angle = rng.uniform(angle(MASSES.0)..angle(MASSES.1));
    (Z_MASS * Z_MASS + Z_MASS * Z_WIDTH * angle.tan()).sqrt()
}

/// Lets a particle decay into two muons, which leave in opposite directions where it is at rest. All directions are
/// equally likely.
pub(crate) fn decay(rng: &mut Rng, z: &FourMomentum) -> Pair {
    let mass = z.mass();
    let momentum = (mass * mass / 4.0 - MUON_MASS * MUON_MASS).max(0.0).sqrt();
    let cos = rng.uniform(-1.0..1.0);
    let sin = (1.0 - cos * cos).sqrt();
    let angle = rng.uniform(0.0..TAU);
    let p = [sin * angle.cos(), sin * angle.sin(), cos].map(|direction| momentum * direction);
    let charge = if rng.below(2) == 0 { 1 } else { -1 };
    let muon = |p, charge| Muon { momentum: FourMomentum::on_shell(MUON_MASS, p).boosted(z), charge };
    Pair(muon(p, charge), muon(p.map(|component| -component), -charge))
}

/// What the detector says of a muon: its direction is known well, how much it bends in the magnet less so.
fn measure(rng: &mut Rng, muon: Muon) -> Muon {
    let error = RESOLUTION.hypot(RESOLUTION_PER_GEV * muon.momentum.transverse());
    let factor = 1.0 + error * rng.normal();
    Muon { momentum: FourMomentum::on_shell(MUON_MASS, muon.momentum.p.map(|p| factor * p)), ..muon }
}
